//! What a request is made of, and how it is handed on: descriptors in one message.
//!
//! Must never leave a descriptor open that a program could inherit.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read as _, Seek as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};

use crate::wanted::{View, Wanted};

/// What comes with a request, in this order: the request, the control socket, input, output, error output.
pub(crate) const PARTS: usize = 5;

/// What a request is for, told by the byte that carries it, so that it can be handed on unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Usual {
    /// No namespaces, the network, and telling what it tries to write.
    Bare = b'B' as isize,
    /// Layers and no network.
    Layers = b'L' as isize,
}

impl Usual {
    /// Of what most requests want.
    pub(crate) fn of(wanted: &Wanted) -> Option<Self> {
        match &wanted.view {
            View::Bare if wanted.network && wanted.tells_writes => Some(Self::Bare),
            View::Layers(_) if !wanted.network => Some(Self::Layers),
            View::Bare | View::Layers(_) | View::Machine => None,
        }
    }

    fn byte(usual: Option<Self>) -> u8 {
        usual.map_or(b'?', |usual| usual as u8)
    }

    fn told_by(byte: u8) -> Option<Self> {
        [Self::Bare, Self::Layers].into_iter().find(|usual| *usual as u8 == byte)
    }
}

/// The standard streams of a program.
pub(crate) struct Streams {
    pub(crate) input: OwnedFd,
    pub(crate) output: OwnedFd,
    pub(crate) errors: OwnedFd,
}

/// A request, its parts by name.
pub(crate) struct Request {
    pub(crate) request: OwnedFd,
    pub(crate) control: OwnedFd,
    pub(crate) streams: Streams,
}

impl Request {
    /// Nothing where parts are missing.
    pub(crate) fn of(parts: Vec<OwnedFd>) -> Option<Self> {
        let [request, control, input, output, errors] = <[OwnedFd; PARTS]>::try_from(parts).ok()?;
        Some(Self { request, control, streams: Streams { input, output, errors } })
    }

    /// Hands it on.
    pub(crate) fn send(&self, to: &OwnedFd) -> rustix::io::Result<()> {
        let Streams { input, output, errors } = &self.streams;
        send_parts(to, [&self.request, &self.control, input, output, errors].map(AsFd::as_fd), None)
    }
}

/// Sends the parts of a request.
pub(crate) fn send_parts(to: &OwnedFd, parts: [BorrowedFd<'_>; PARTS], usual: Option<Usual>) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PARTS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&parts));
    sendmsg(to, &[IoSlice::new(&[Usual::byte(usual)])], &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// The descriptors of one request, and what it is for; nothing at the end.
pub(crate) fn receive(requests: &OwnedFd) -> rustix::io::Result<Option<(Vec<OwnedFd>, Option<Usual>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PARTS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0u8; 1];
    let got = recvmsg(requests, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    if got.bytes == 0 {
        return Ok(None);
    }
    let mut parts = Vec::with_capacity(PARTS);
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            parts.extend(fds);
        }
    }
    let [byte] = byte;
    Ok(Some((parts, Usual::told_by(byte))))
}

/// What a request wants.
pub(crate) fn read_wanted(request: &OwnedFd) -> std::io::Result<Wanted> {
    let mut file = File::from(request.try_clone()?);
    file.rewind()?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    serde_json::from_slice(&bytes).map_err(std::io::Error::other)
}
