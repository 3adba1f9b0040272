#!/bin/busybox sh
# The first process of the guest: two hosts with a container each, xnat on both, and a judgement a line on the console.
# The kernel's command line says which hooks are asked for (hooks=clsact) and which must be in use (expect=clsact).
# What busybox has itself it runs itself whatever PATH says, so the other programs are called by their paths.

/bin/busybox --install -s /bin
export PATH=/bin HOME=/
ip=/opt/ip tc=/opt/tc bpftool=/opt/bpftool xnat=/opt/xnat
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
for word in $(cat /proc/cmdline); do
    case $word in hooks=* | expect=*) eval "$word" ;; esac
done

# check WHAT COMMAND...: runs the command and says whether it succeeded; if it did not, everything ends.
check() {
    what=$1
    shift
    (set -e; "$@") > /tmp/said 2>&1
    if [ $? = 0 ]; then
        echo "ok: $what"
    else
        echo "FAILED: $what"
        cat /tmp/said /tmp/*.log
        echo "RESULT: failure"
        poweroff -f
    fi
}

# until_true SECONDS COMMAND...: repeats the command until it succeeds.
until_true() {
    left=$(($1 * 5))
    shift
    until "$@"; do
        left=$((left - 1))
        [ $left -gt 0 ] || return 1
        sleep 0.2
    done
}

on() {
    namespace=$1
    shift
    nsenter --net=/run/netns/"$namespace" -- "$@"
}

# host NAME ADDRESS PREFIX CONTAINER: a host with a bridge and one container.
host() {
    on "$1" $ip link set lo up
    on "$1" $ip address add "$2"/24 dev eth0
    on "$1" $ip link set eth0 up
    echo 1 | on "$1" tee /proc/sys/net/ipv4/ip_forward
    on "$1" $ip link add br0 type bridge
    on "$1" $ip address add "$3".1/24 dev br0
    on "$1" $ip link set br0 up
    $ip netns add "$4"
    on "$1" $ip link add veth0 type veth peer name eth0 netns "$4"
    on "$1" $ip link set veth0 up master br0
    on "$4" $ip link set lo up
    on "$4" $ip address add "$3".11/24 dev eth0
    on "$4" $ip link set eth0 up
    on "$4" $ip route add default via "$3".1
}

network() {
    $ip netns add node1
    $ip netns add node2
    on node1 $ip link add eth0 type veth peer name eth0 netns node2
    host node1 172.29.0.4 192.168.110 n1
    host node2 172.29.0.17 192.168.220 n2
}

# What xnat might leave in a host.
traces() {
    on "$1" $tc qdisc show
    for device in eth0 br0 veth0; do
        for side in ingress egress; do
            # Refused where there is no such qdisc.
            on "$1" $tc filter show dev $device $side 2> /dev/null || true
        done
    done
    on "$1" $bpftool net show
    on "$1" $ip -4 route show table all
    on "$1" grep -H . /proc/sys/net/ipv4/conf/*/forwarding
}

no_trace() {
    traces "$1" > /tmp/after
    diff /tmp/before."$1" /tmp/after
    [ ! -e /sys/fs/bpf/xnat/"$1" ]
    [ ! -e /run/xnat/"$1" ]
}

start() {
    # Not by way of a function: its process would be a shell's.
    nsenter --net=/run/netns/"$1" -- \
        $xnat run --instance "$1" --peer "$2" --subnet "$3" --hooks "$hooks" > /tmp/"$1".log 2>&1 &
    echo $! > /tmp/"$1".pid
    until_true 60 grep -q '^ready' /tmp/"$1".log
}

# stop SIGNAL HOST
stop() {
    process=$(cat /tmp/"$2".pid)
    kill -"$1" "$process"
    until_true 20 ended "$process"
}

ended() {
    ! kill -0 "$1" 2> /dev/null
}

met() {
    until_true 30 grep -q "peer $2 owns" /tmp/"$1".log
}

pinged() {
    on "$1" ping -c 3 -W 5 "$2" > /tmp/ping
    cat /tmp/ping
    [ "$(grep -c 'ttl=62' /tmp/ping)" = 3 ]
}

connected() {
    on n2 nc -l -p 80 -e cat &
    until_true 5 on n2 grep :0050 /proc/net/tcp /proc/net/tcp6
    echo hello | on n1 timeout 10 nc 192.168.220.11 80 > /tmp/answer
    grep hello /tmp/answer
}

# flow HOST ORIGINAL REPLY: a line of conntrack that has both.
flow() {
    on "$1" $xnat conntrack dump --instance "$1" -o conntrack --proto tcp > /tmp/dump
    cat /tmp/dump
    grep "$2 .*$3 " /tmp/dump
}

echo "Linux $(uname -r)"
for module in $(cat /modules/order); do
    check "module $module" insmod /modules/"$module".ko
done
check "the network" network
traces node1 > /tmp/before.node1
traces node2 > /tmp/before.node2
check "xnat check" $xnat check
check "xnat run on node1" start node1 172.29.0.17 192.168.110.0/24
check "xnat run on node2" start node2 172.29.0.4 192.168.220.0/24
check "node1 meets node2" met node1 172.29.0.17
check "node2 meets node1" met node2 172.29.0.4
check "hooks by $expect" grep "hooks .* by $expect" /tmp/node1.log
check "ping from n1 to n2" pinged n1 192.168.220.11
check "ping from n2 to n1" pinged n2 192.168.110.11
check "TCP from n1 to n2" connected
check "conntrack dump on node1" flow node1 \
    'src=192.168.110.11 dst=192.168.220.11 sport=[0-9]* dport=80' 'src=172.29.0.17 dst=172.29.0.4 sport=80'
check "conntrack dump on node2" flow node2 \
    'src=172.29.0.4 dst=172.29.0.17 sport=[0-9]* dport=80' 'src=192.168.220.11 dst=172.29.0.4 sport=80'
check "Ctrl-C" stop INT node1
check "Ctrl-C leaves no trace" no_trace node1
check "kill -9" stop KILL node2
check "detach" on node2 $xnat detach --instance node2
check "detach leaves no trace" no_trace node2
echo "RESULT: all is well"
poweroff -f
