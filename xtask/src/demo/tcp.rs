//! TCP between namespaces, from within this process.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};

const PATIENCE: Duration = Duration::from_secs(5);

/// Listens in a namespace, on all its addresses.
pub(super) fn listen(namespace: &str, port: u16) -> io::Result<TcpListener> {
    inside(namespace, || TcpListener::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))
}

/// Answers the next connection with a line that says who answers and whom it sees.
pub(super) fn answer_one(listener: TcpListener, name: &'static str) {
    // Nobody waits for it: if no connection comes, it ends with the demo.
    thread::spawn(move || -> io::Result<()> {
        let (stream, from) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut question = String::new();
        BufReader::new(&stream).read_line(&mut question)?;
        (&stream).write_all(format!("I am {name}, and you are {from}").as_bytes())
    });
}

/// Connects from a namespace, asks, and returns the answer.
pub(super) fn ask(namespace: &str, to: SocketAddrV4) -> io::Result<String> {
    let mut stream = inside(namespace, || TcpStream::connect_timeout(&to.into(), PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"who are you, and who am I?\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Makes a socket in a namespace: it stays there, wherever it is used.
fn inside<T: Send>(namespace: &str, make: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(format!("/run/netns/{namespace}"))?;
    let enter_and_make = || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        make()
    };
    // A thread of its own, because a namespace is entered by threads and this one has no way back.
    let socket = thread::scope(|scope| scope.spawn(enter_and_make).join());
    socket.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
