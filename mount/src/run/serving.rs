//! How other polystore processes find the one that serves a mount.
//!
//! It listens on a socket in the abstract namespace, named by the mount's device number and a
//! slot, because the number may be used again while the process of an earlier mount still puts
//! in place what was written there. A process whose mount has gone keeps quiet. Who else
//! connects gets one line, the number of its descriptor of the data directory, and then
//! end-of-file when it ends, however it ends. So `polystore unmount` can wait for it, and a data
//! directory that is mounted over itself can be reached as /proc/PID/fd/N.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::mountinfo::Entry;

/// Connections that are kept at most; older ones are closed.
const CONNECTIONS: usize = 64;
/// How long a server may take to say its line.
const GREETING: Duration = Duration::from_secs(2);

/// Processes that can be told apart under one device number.
const SLOTS: usize = 8;

fn name(entry: &Entry, slot: usize) -> String {
    format!("polystore/mount/{}/{slot}", entry.device)
}

/// Listens for `entry`, the mount that this process serves, until the process ends.
/// `data` is its data directory, opened before anything was mounted over it, and `is_there` tells
/// whether the mount still exists.
pub fn announce(
    entry: &Entry,
    data: File,
    is_there: impl Fn() -> bool + Send + 'static,
) -> io::Result<()> {
    let listener = listen(entry)?;
    thread::Builder::new()
        .name("announce".into())
        .spawn(move || greet(&listener, &data, is_there))?;
    Ok(())
}

fn listen(entry: &Entry) -> io::Result<UnixListener> {
    let mut result = Err(io::ErrorKind::AddrInUse.into());
    for slot in 0..SLOTS {
        let address = SocketAddr::from_abstract_name(name(entry, slot))?;
        result = UnixListener::bind_addr(&address);
        if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::AddrInUse) {
            break;
        }
    }
    result
}

fn greet(listener: &UnixListener, data: &File, is_there: impl Fn() -> bool) {
    let own = rustix::process::geteuid();
    let line = format!("{}\n", data.as_raw_fd());
    let mut connections: Vec<UnixStream> = Vec::new();
    loop {
        let Ok((mut connection, _)) = listener.accept() else {
            // Out of descriptors: what takes so many will end some time.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        let trusted =
            socket_peercred(&connection).is_ok_and(|peer| peer.uid.is_root() || peer.uid == own);
        if !trusted
            || !is_there()
            || connection.set_nonblocking(true).is_err()
            || connection.write_all(line.as_bytes()).is_err()
        {
            continue;
        }
        connections.retain_mut(|old| !matches!(old.read(&mut [0]), Ok(0)));
        if connections.len() == CONNECTIONS {
            connections.remove(0);
        }
        connections.push(connection);
    }
}

/// The processes that listen for `entry`, without waiting for a word of theirs; `None` if that cannot be told.
/// A process that was killed is among them as long as one of its threads hangs in the kernel.
pub fn listeners(entry: &Entry) -> Option<Vec<i32>> {
    let owner = entry.owner.map(|(user, _)| user)?;
    let mut found = Vec::new();
    for slot in 0..SLOTS {
        let socket = match call(entry, slot) {
            Ok(socket) => socket,
            Err(Errno::CONNREFUSED) => continue,
            // Too many have called already. Whoever it is, he may be alive.
            Err(_) => return None,
        };
        let peer = socket_peercred(&socket).ok()?;
        if peer.uid.as_raw() == owner || peer.uid.is_root() {
            found.push(peer.pid.as_raw_pid());
        }
    }
    Some(found)
}

/// Connects to who listens under a name, without waiting for him: he may be stopped, or dead, and have more calls
/// than can wait (EAGAIN).
fn call(entry: &Entry, slot: usize) -> Result<OwnedFd, Errno> {
    let address = SocketAddrUnix::new_abstract_name(name(entry, slot).as_bytes())?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &address)?;
    Ok(socket)
}

/// The process that serves a mount.
pub struct Server {
    connection: OwnedFd,
    /// Its number.
    pub pid: i32,
    /// The data directory that it holds, whatever is mounted over that.
    pub data: PathBuf,
}

impl Server {
    /// Finds the server of `entry`; `None` where it is dead or out of reach.
    pub fn of(entry: &Entry) -> Option<Server> {
        (0..SLOTS).find_map(|slot| Server::at(entry, slot))
    }

    fn at(entry: &Entry, slot: usize) -> Option<Server> {
        let connection = UnixStream::from(call(entry, slot).ok()?);
        connection.set_nonblocking(false).ok()?;
        let peer = socket_peercred(&connection).ok()?;
        // Anybody can listen under a name; only the mount's owner is believed.
        let owner = entry.owner.map(|(user, _)| user)?;
        if peer.uid.as_raw() != owner && !peer.uid.is_root() {
            return None;
        }
        connection.set_read_timeout(Some(GREETING)).ok()?;
        let mut line = String::new();
        BufReader::new((&connection).take(16))
            .read_line(&mut line)
            .ok()?;
        let descriptor: u32 = line.trim_end().parse().ok()?;
        let pid = peer.pid.as_raw_pid();
        Some(Server {
            connection: connection.into(),
            pid,
            data: format!("/proc/{pid}/fd/{descriptor}").into(),
        })
    }

    /// Waits until the process has ended; `false` if it has not within `patience`.
    pub fn wait(self, patience: Duration) -> bool {
        let mut connection = UnixStream::from(self.connection);
        connection
            .set_read_timeout(Some(patience.max(Duration::from_millis(1))))
            .is_ok()
            && match connection.read(&mut [0]) {
                Ok(_) => true,
                Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::mountinfo::POLYSTORE;

    fn entry(device: String) -> Entry {
        let user = rustix::process::geteuid().as_raw();
        Entry {
            id: 1,
            device,
            root: "/".into(),
            mountpoint: "/safe".into(),
            kind: POLYSTORE.into(),
            source: "/data".into(),
            owner: Some((user, 0)),
        }
    }

    #[test]
    fn a_server_is_found_and_tells_its_directory() {
        let directory = tempfile::tempdir().unwrap();
        let entry = entry(format!("test:{}", std::process::id()));
        assert!(Server::of(&entry).is_none());
        // One whose mount has gone, but which has not ended, must not stand in the way.
        announce(&entry, File::open("/").unwrap(), || false).unwrap();
        assert!(Server::of(&entry).is_none());
        announce(&entry, File::open(directory.path()).unwrap(), || true).unwrap();
        assert_eq!(listeners(&entry), Some(vec![std::process::id() as i32; 2]));
        // More often than connections are kept, so that closed ones must have been let go.
        for _ in 0..3 * CONNECTIONS {
            let server = Server::of(&entry).unwrap();
            assert_eq!(server.pid, std::process::id() as i32);
            assert_eq!(std::fs::read_link(&server.data).unwrap(), directory.path());
        }
        let server = Server::of(&entry).unwrap();
        assert!(!server.wait(Duration::from_millis(20)), "it still runs");
    }

    #[test]
    fn strangers_are_not_believed() {
        let mut entry = entry(format!("stranger:{}", std::process::id()));
        announce(&entry, File::open("/").unwrap(), || true).unwrap();
        assert!(Server::of(&entry).is_some());
        entry.owner = Some((rustix::process::geteuid().as_raw() + 1, 0));
        let root = rustix::process::geteuid().is_root();
        assert_eq!(Server::of(&entry).is_some(), root);
    }
}
