//! Attaching the programs to interfaces, and keeping it so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::{fmt, fs, io};

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcHandle, qdisc_add_clsact};
use aya::programs::{LinkOrder, ProgramError, SchedClassifier, TcAttach, TcAttachType};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::instance::Instance;
use crate::loader::{Dataplane, LoadError};
use crate::net::{NetError, Netlink};
use crate::state::{Filter, StateError, UndoFile, note};
use crate::table::{io_error, io_kind};
use crate::undo::remove_filter;

/// Which way packets go through a hook, as seen from the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    In,
    Out,
}

/// A place at which one program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The interface.
    pub(crate) link: u32,
    /// The side of it.
    pub(crate) side: Side,
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HookKind {
    Tcx,
    Clsact,
}

impl fmt::Display for HookKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

/// Why a program could not be attached.
#[derive(Debug, Error)]
pub(crate) enum HookError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Net(#[from] NetError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("attaching {program}: {error}")]
    Attach { program: &'static str, error: ProgramError },
    #[error("adding a clsact qdisc: {0}")]
    Qdisc(aya::programs::tc::TcError),
    #[error("pinning a hook: {0}")]
    Pin(aya::pin::PinError),
    #[error("removing a filter of an earlier run from interface {link}: {error}")]
    Leftover { link: u32, error: String },
    #[error("{path}: {error}", path = path.display())]
    File { path: PathBuf, error: io::Error },
}

impl HookError {
    /// Whether the interface had gone.
    pub(crate) fn is_vanished(&self) -> bool {
        io_error(self).and_then(io::Error::raw_os_error) == Some(libc::ENODEV)
    }
}

/// The order of our filters at a clsact hook. The next is tried where another kind of filter has taken one.
const PRIORITIES: std::ops::RangeInclusive<u16> = 1..=8;
/// The handle of our filters, so that a later run replaces rather than doubles them: "xn".
pub(crate) const HANDLE: TcHandle = TcHandle::new(0, 0x786e);

#[derive(Debug)]
enum Attached {
    /// Pinned: it lives on if the daemon dies.
    Tcx { _link: FdLink },
    /// Held by the kernel until it is removed.
    Clsact { link: SchedClassifierLink, filter: Filter },
}

/// The hooks of an instance.
#[derive(Debug)]
pub(crate) struct Hooks {
    kind: HookKind,
    folder: PathBuf,
    attached: BTreeMap<Place, (&'static str, Attached)>,
    /// Whether the pinned links are of this network namespace and can be taken over.
    adopt: bool,
}

impl Hooks {
    /// No hooks yet. With `adopt`, pinned links and filters of an earlier run are taken over where they fit.
    pub(crate) fn new(instance: &Instance, kind: HookKind, adopt: bool) -> Self {
        Self { kind, folder: instance.links(), attached: BTreeMap::new(), adopt }
    }

    /// How programs are attached.
    pub(crate) const fn kind(&self) -> HookKind {
        self.kind
    }

    /// Where which program is attached.
    pub(crate) fn places(&self) -> impl Iterator<Item = (Place, &'static str)> {
        self.attached.iter().map(|(&place, &(program, _))| (place, program))
    }

    /// Removes every hook whose place is not wanted.
    pub(crate) async fn retain(
        &mut self,
        wanted: &BTreeMap<Place, &'static str>,
        undo: &mut UndoFile,
        netlink: &Netlink,
    ) -> Result<(), HookError> {
        let stale: Vec<Place> = self.attached.keys().filter(|place| !wanted.contains_key(place)).copied().collect();
        for place in stale {
            if let Some((_, attached)) = self.attached.remove(&place) {
                self.remove(place, attached, undo, netlink).await?;
            }
        }
        Ok(())
    }

    /// As [`Self::attach`], for the first hooks of a dataplane that is being loaded, at those of the wanted places where
    /// this program belongs. Where it cannot be attached now that is left to [`Self::attach`].
    pub(crate) fn attach_early(
        &mut self,
        wanted: &BTreeMap<Place, &'static str>,
        name: &'static str,
        program: &mut SchedClassifier,
    ) {
        if self.kind != HookKind::Tcx {
            return;
        }
        for (&place, _) in wanted.iter().filter(|(_, wanted)| **wanted == name) {
            if let Ok(attached) = self.attach_tcx(place, name, program) {
                self.attached.insert(place, (name, attached));
            }
        }
    }

    /// Attaches a program at a place where there is none of this run's yet. True if it was missing. What an earlier run
    /// has left there goes at once: two would treat every packet twice.
    pub(crate) async fn attach(
        &mut self,
        place: Place,
        program: &'static str,
        dataplane: &mut Dataplane,
        undo: &mut UndoFile,
        netlink: &Netlink,
    ) -> Result<bool, HookError> {
        if self.attached.contains_key(&place) {
            return Ok(false);
        }
        let attached = match self.kind {
            HookKind::Tcx => self.attach_tcx(place, program, dataplane.program(program)?)?,
            HookKind::Clsact => self.attach_clsact(place, program, dataplane, undo, netlink).await?,
        };
        let own = attached.filter().cloned();
        self.attached.insert(place, (program, attached));
        if self.kind != HookKind::Tcx {
            remove_file(&self.pin(place))?;
        }
        drop_filters(undo, |it| it.is_at(place) && Some(it) != own.as_ref())?;
        Ok(true)
    }

    /// Removes what an earlier run has left and this one has not taken over.
    pub(crate) fn drop_leftovers(&mut self, undo: &mut UndoFile) -> Result<(), HookError> {
        self.adopt = false;
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let tcx = self.kind == HookKind::Tcx;
            let path = entry.path();
            if !tcx || !self.attached.keys().any(|place| self.pin(*place) == path) {
                fs::remove_file(&path).map_err(|error| HookError::File { path, error })?;
            }
        }
        drop_filters(undo, |filter| !self.attached.values().any(|(_, own)| own.filter() == Some(filter)))
    }

    /// Lets go of everything without detaching: pins and filters stay for [`crate::undo`] to remove.
    pub(crate) fn release(self) {
        for (_, attached) in self.attached.into_values() {
            if let Attached::Clsact { link, .. } = attached {
                // Its destructor would detach, and undo does so by the list.
                std::mem::forget(link);
            }
        }
    }

    fn pin(&self, Place { link, side }: Place) -> PathBuf {
        self.folder.join(match side {
            Side::In => format!("{link}-in"),
            Side::Out => format!("{link}-out"),
        })
    }

    fn attach_tcx(
        &self,
        place: Place,
        name: &'static str,
        program: &mut SchedClassifier,
    ) -> Result<Attached, HookError> {
        let wrong = |error| HookError::Attach { program: name, error };
        let pin = self.pin(place);
        let adopted = if self.adopt { open_link(&pin) } else { None };
        let adopted = adopted.and_then(|link| program.attach_to_link(link).ok());
        let fresh = adopted.is_none();
        let id = if let Some(id) = adopted {
            id
        } else {
            remove_file(&pin)?;
            let order = match place.side {
                Side::In => LinkOrder::first(),
                Side::Out => LinkOrder::last(),
            };
            let attach = TcAttach::Tcx { attach_type: attach_type(place.side), order };
            program.attach(place.link, attach).map_err(wrong)?
        };
        let link: Result<FdLink, LinkError> = program.take_link(id).map_err(wrong)?.try_into();
        let mut link = link.map_err(|error| wrong(error.into()))?;
        if fresh {
            link = link.pin(&pin).map_err(HookError::Pin)?.into();
        }
        Ok(Attached::Tcx { _link: link })
    }

    async fn attach_clsact(
        &self,
        place: Place,
        name: &'static str,
        dataplane: &mut Dataplane,
        undo: &mut UndoFile,
        netlink: &Netlink,
    ) -> Result<Attached, HookError> {
        if !netlink.has_clsact(place.link).await? {
            undo.change(|list| note(&mut list.qdiscs, place.link))?;
            qdisc_add_clsact(place.link).map_err(HookError::Qdisc)?;
        }
        let earlier =
            undo.list().filters.iter().find(|it| self.adopt && it.is_at(place) && it.program == name).cloned();
        if let Some(filter) = earlier
            && let Ok(link) = replace_filter(place, &filter, name, dataplane)
        {
            return Ok(Attached::Clsact { link, filter });
        }
        let mut last = None;
        for priority in PRIORITIES {
            let ingress = place.side == Side::In;
            let filter = Filter { link: place.link, ingress, program: name.to_owned(), priority };
            // One of an earlier run's that is still there stays on the list until it is removed.
            let listed = undo.list().filters.contains(&filter);
            undo.change(|list| note(&mut list.filters, filter.clone()))?;
            match new_filter(place, priority, name, dataplane) {
                Ok(link) => return Ok(Attached::Clsact { link, filter }),
                Err(error) => last = Some(error),
            }
            if !listed {
                undo.change(|list| list.filters.retain(|it| *it != filter))?;
            }
        }
        Err(last.unwrap_or(HookError::Load(LoadError::NoProgram(name))))
    }

    async fn remove(
        &self,
        place: Place,
        attached: Attached,
        undo: &mut UndoFile,
        netlink: &Netlink,
    ) -> Result<(), HookError> {
        match attached {
            Attached::Tcx { .. } => remove_file(&self.pin(place)),
            Attached::Clsact { link, filter } => {
                // Fails only where the interface has gone, and the filter with it.
                drop(link);
                let last = !self.attached.keys().any(|it| it.link == place.link);
                if last && undo.list().qdiscs.contains(&place.link) {
                    netlink.remove_empty_clsact(place.link).await?;
                    undo.change(|list| list.qdiscs.retain(|&it| it != place.link))?;
                }
                Ok(undo.change(|list| list.filters.retain(|it| *it != filter))?)
            }
        }
    }
}

impl Attached {
    fn filter(&self) -> Option<&Filter> {
        match self {
            Self::Tcx { .. } => None,
            Self::Clsact { filter, .. } => Some(filter),
        }
    }
}

impl Filter {
    fn is_at(&self, place: Place) -> bool {
        self.link == place.link && self.ingress == (place.side == Side::In)
    }
}

/// Removes the filters of the undo list for which `which` holds. One that cannot be removed stays on the list.
fn drop_filters(undo: &mut UndoFile, which: impl Fn(&Filter) -> bool) -> Result<(), HookError> {
    let stale: Vec<Filter> = undo.list().filters.iter().filter(|filter| which(filter)).cloned().collect();
    for filter in stale {
        remove_filter(&filter).map_err(|error| HookError::Leftover { link: filter.link, error })?;
        undo.change(|list| list.filters.retain(|it| *it != filter))?;
    }
    Ok(())
}

fn open_link(pin: &Path) -> Option<SchedClassifierLink> {
    FdLink::from(PinnedLink::from_pin(pin).ok()?).try_into().ok()
}

fn remove_file(path: &Path) -> Result<(), HookError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(HookError::File { path: path.to_owned(), error }),
        _ => Ok(()),
    }
}

const fn attach_type(side: Side) -> TcAttachType {
    match side {
        Side::In => TcAttachType::Ingress,
        Side::Out => TcAttachType::Egress,
    }
}

fn new_filter(
    place: Place,
    priority: u16,
    name: &'static str,
    dataplane: &mut Dataplane,
) -> Result<SchedClassifierLink, HookError> {
    let wrong = |error| HookError::Attach { program: name, error };
    let program = dataplane.program(name)?;
    let options = NlOptions { priority, handle: HANDLE, classid: None };
    let parent = TcHandle::from(attach_type(place.side));
    let id = program.attach(place.link, TcAttach::Netlink { parent, options }).map_err(wrong)?;
    program.take_link(id).map_err(wrong)
}

fn replace_filter(
    place: Place,
    filter: &Filter,
    name: &'static str,
    dataplane: &mut Dataplane,
) -> Result<SchedClassifierLink, HookError> {
    let wrong = |error| HookError::Attach { program: name, error };
    let parent = TcHandle::from(attach_type(place.side));
    let old = SchedClassifierLink::attached(place.link, parent, filter.priority, HANDLE, None);
    let old = old.map_err(|error| wrong(error.into()))?;
    let program = dataplane.program(name)?;
    let id = program.attach_to_link(old).map_err(wrong)?;
    program.take_link(id).map_err(wrong)
}

/// Whether this kernel has TCX.
pub(crate) fn has_tcx() -> bool {
    let asked = SchedClassifier::query_tcx(c"lo", TcAttachType::Ingress);
    // A kernel without it does not know the attach type.
    asked.is_ok() || asked.is_err_and(|error| io_kind(&error) == Some(io::ErrorKind::PermissionDenied))
}
