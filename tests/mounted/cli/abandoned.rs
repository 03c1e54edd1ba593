//! Mounts whose process was killed while one of its threads hangs in the kernel.

use std::io::Write;

use super::site::*;

/// Serves a mount as little as it needs, and lets a thread wait for a directory that a program holds which waits for
/// an answer: for ever.
const SERVER: &str = r#"
import ctypes, os, socket, struct, sys, threading
mountpoint = sys.argv[1]
INIT, GETATTR, LOOKUP, MKDIR, FORGET, BATCH_FORGET = 26, 3, 1, 9, 2, 42
fuse = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={fuse},rootmode=40755,user_id=0,group_id=0,allow_other".encode()
if libc.mount(b"/data", mountpoint.encode(), b"fuse.polystore", 0, options):
    sys.exit(os.strerror(ctypes.get_errno()))
line = [l for l in open("/proc/self/mountinfo") if l.split()[4] == mountpoint][-1]
listener = socket.socket(socket.AF_UNIX)
for slot in range(8):
    try:
        listener.bind(f"\0polystore/mount/{line.split()[2]}/{slot}")
        break
    except OSError:
        pass  # The process of an earlier mount of that number.
listener.listen(5)
def notify():
    name = b"name\0"
    payload = struct.pack("<QII", 1, len(name) - 1, 0) + name
    print("waits", flush=True)
    os.write(fuse, struct.pack("<IiQ", 16 + len(payload), 3, 0) + payload)
attributes = struct.pack("<6Q10I", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
print("serves", flush=True)
while True:
    request = os.read(fuse, 1 << 20)
    size, operation, unique = struct.unpack_from("<IIQ", request)
    error, reply = 0, b""
    if operation in (FORGET, BATCH_FORGET):
        continue
    elif operation == INIT:
        reply = struct.pack("<IIIIHHIIHHI28x", 7, 31, 1 << 16, 0, 12, 9, 1 << 17, 1, 32, 0, 0)
    elif operation == GETATTR:
        reply = struct.pack("<QII", 0, 0, 0) + attributes
    elif operation == LOOKUP:
        error = -2
    elif operation == MKDIR:
        threading.Thread(target=notify, daemon=True).start()
        continue
    else:
        error = -38
    os.write(fuse, struct.pack("<IiQ", 16 + len(reply), error, unique) + reply)
"#;

struct Hung {
    safe: PathBuf,
    server: Child,
    program: Child,
}

impl Hung {
    fn new(site: &Site) -> Hung {
        let safe = site.path("safe");
        let _ = fs::create_dir(&safe);
        let mut server = site.program("python3");
        let mut server = server
            .args(["-c", SERVER])
            .arg(&safe)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(server.stdout.take().unwrap()).lines();
        assert_eq!(said.next().unwrap().unwrap(), "serves");
        let mut program = site.program("mkdir");
        let program = program.arg("safe/x").stderr(Stdio::null()).spawn().unwrap();
        assert_eq!(said.next().unwrap().unwrap(), "waits");
        wait_for("the thread to hang", || {
            let threads = fs::read_dir(format!("/proc/{}/task", server.id())).unwrap();
            threads.flatten().any(|thread| {
                let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
                stat.rsplit(')').next().unwrap().starts_with(" D")
            })
        });
        Hung {
            safe,
            server,
            program,
        }
    }

    fn kill(&mut self) {
        self.server.kill().unwrap();
        thread::sleep(Duration::from_millis(300));
        let ended = self.server.try_wait().unwrap();
        assert!(ended.is_none(), "it has ended: this shows nothing");
    }

    /// All of them have come to an end.
    fn end(&mut self) {
        wait_for("the program's end", || {
            self.program.try_wait().unwrap().is_some()
        });
        wait_for("the server's end", || {
            self.server.try_wait().unwrap().is_some()
        });
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        let _ = self.server.kill();
        if is_mounted(&self.safe) {
            let _ = Command::new("umount").arg("-f").arg(&self.safe).status();
        }
        let _ = (self.program.wait(), self.server.wait());
    }
}

#[test]
fn a_mount_whose_killed_process_hangs_is_unmounted() {
    let Some(site) = Site::new(Who::Root) else {
        return;
    };
    let mut hung = Hung::new(&site);
    hung.kill();
    site.succeed(&["unmount", "safe"]);
    assert!(!is_mounted(&site.path("safe")));
    hung.end();
}

#[test]
fn a_mount_whose_killed_process_hangs_is_cleared_by_the_next() {
    let Some(site) = Site::new(Who::Root) else {
        return;
    };
    let mut hung = Hung::new(&site);
    // As long as it lives nobody takes its mount away, whether it answers or not.
    let message = site.refuse(&["mount", "data", "safe"]);
    assert!(message.contains("is mounted already"), "{message}");
    kill("-STOP", hung.server.id());
    let message = site.refuse(&["mount", "data", "safe"]);
    assert!(message.contains("does not answer"), "{message}");
    assert!(hung.program.try_wait().unwrap().is_none());
    hung.kill();
    let output = site.run(&["mount", "-d", "data", "safe"]);
    assert!(output.status.success(), "{output:?}");
    hung.end();
    assert_eq!(site.cat("safe/file").as_deref(), Some("content"));
    let mut file = File::create(site.path("safe/new")).unwrap();
    file.write_all(b"x").unwrap();
    drop(file);
    site.succeed(&["unmount", "safe"]);
}
