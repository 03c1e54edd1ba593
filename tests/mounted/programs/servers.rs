//! Database servers with many files. They take a pattern for `--direct`, which says that they keep their files whole themselves.

use crate::harness::{Setup, same};

/// PostgreSQL: initdb, sessions, a killed server, recovery. Nothing is synced: after a kill (no power cut)
/// that loses nothing, and on a busy disk it would take minutes.
const POSTGRES: &str = r#"
import glob
BIN = sorted(glob.glob("/usr/lib/postgresql/*/bin") + [""])[-1]
RUN = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"] if os.getuid() == 0 else []
HERE = os.getcwd()
if os.getuid() == 0:
    os.mkdir("pgdata")
    os.chown("pgdata", 65534, 65534)
    os.chmod(TMP, 0o777)

def run(*command, **options):
    return subprocess.run([*RUN, f"{BIN}/{command[0]}", *command[1:]], check=True, capture_output=True, text=True, **options).stdout

def start():
    server = subprocess.Popen([*RUN, f"{BIN}/postgres", "-D", f"{HERE}/pgdata", "-k", TMP, "-c", "listen_addresses=", "-c", "shared_buffers=1MB",
        "-c", "fsync=off", "-c", "max_wal_size=32MB", "-c", "checkpoint_timeout=30s"], stderr=open(f"{TMP}/pg.err", "ab"), cwd="/")
    deadline = time.monotonic() + 30
    while subprocess.run([f"{BIN}/pg_isready", "-q", "-h", TMP]).returncode:
        assert server.poll() is None and time.monotonic() < deadline, read(f"{TMP}/pg.err").decode()
        time.sleep(0.02)
    return server

def sql(text):
    return run("psql", "-X", "-q", "-A", "-t", "-h", TMP, "-U", "nobody", "-d", "postgres", "-v", "ON_ERROR_STOP=1", "-c", text).strip()

run("initdb", "-D", f"{HERE}/pgdata", "-U", "nobody", "--auth=trust", "-N", cwd="/")
server = start()
sql("CREATE TABLE t(writer int, number int)")
run("pgbench", "-h", TMP, "-U", "nobody", "-i", "-q", "-s", "1", "postgres")
run("pgbench", "-h", TMP, "-U", "nobody", "-c", "4", "-t", "50", "-n", "postgres")
equal(sql("SELECT count(*) FROM pgbench_history"), "200")

def writes(line, writer):
    shell = subprocess.Popen([f"{BIN}/psql", "-X", "-q", "-A", "-t", "-h", TMP, "-U", "nobody", "-d", "postgres"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    for number in range(1, 10_000):
        try:
            shell.stdin.write(f"INSERT INTO t VALUES({writer}, {number}) RETURNING number;\n".encode())
            shell.stdin.flush()
        except BrokenPipeError:
            return
        if not shell.stdout.readline():
            return
        line.say(number)

writers = [Worker(writes, writer) for writer in range(3)]
for writer in writers:
    for _ in range(20):
        writer.hear()
sql("CHECKPOINT")
sql("VACUUM FULL pgbench_accounts")
server.kill()
server.wait()
said = []
for writer in writers:
    last = 20
    try:
        while True:
            last = int(writer.hear())
    except EOFError:
        pass
    writer.done()
    said.append(last)
# Its children notice that they are alone; the next server does not start before they have gone.
deadline = time.monotonic() + 20
server = None
while server is None:
    try:
        server = start()
    except AssertionError:
        if time.monotonic() > deadline:
            raise
        time.sleep(0.1)
for writer, last in enumerate(said):
    equal(int(sql(f"SELECT count(*) FROM t WHERE writer = {writer} AND number <= {last}")), last, "acknowledged rows")
equal(sql("SELECT count(*) FROM pgbench_history"), "200")
run("pgbench", "-h", TMP, "-U", "nobody", "-c", "2", "-t", "20", "-n", "postgres")
run("pg_dump", "-h", TMP, "-U", "nobody", "-f", f"{TMP}/dump.sql", "postgres")
server.send_signal(signal.SIGINT)
equal(server.wait(30), 0)
run("pg_controldata", f"{HERE}/pgdata")
"#;

/// Redis: an append-only file that is rewritten, a snapshot, a kill. It writes before it answers, and leaves
/// syncing to the kernel: with `everysec` it answers before it writes while a sync is under way.
const REDIS: &str = r#"
os.mkdir("redis")
SOCKET = f"{TMP}/redis.sock"
def cli(*words):
    return subprocess.run(["redis-cli", "-s", SOCKET, *words], check=True, capture_output=True, text=True).stdout.strip()

def start():
    if os.path.exists(SOCKET):
        os.unlink(SOCKET)
    server = subprocess.Popen(["redis-server", "--port", "0", "--unixsocket", SOCKET, "--dir", f"{SAFE}/redis", "--appendonly", "yes" if APPENDS else "no", "--appendfsync", "no",
        "--save", "3600 1", "--auto-aof-rewrite-percentage", "0"], stdout=open(f"{TMP}/redis.out", "ab"), cwd="/")
    deadline = time.monotonic() + 30
    while subprocess.run(["redis-cli", "-s", SOCKET, "PING"], capture_output=True).stdout != b"PONG\n":
        assert server.poll() is None and time.monotonic() < deadline, read(f"{TMP}/redis.out").decode()
        time.sleep(0.01)
    return server

def settled(what, value):
    deadline = time.monotonic() + 20
    while f"{what}:{value}" not in cli("INFO", "persistence"):
        assert time.monotonic() < deadline, cli("INFO", "persistence")
        time.sleep(0.02)

server = start()
for round in range(3):
    for n in range(20):
        cli("SET", f"k{round}-{n}", "v" * 100)
    cli("INCRBY", "counter", "20")
    if APPENDS and round == 0:
        cli("BGREWRITEAOF")
        settled("aof_rewrite_in_progress", 0)
        settled("aof_last_bgrewrite_status", "ok")
    if not APPENDS or round == 1:
        equal(cli("SAVE"), "OK")
    if APPENDS and round == 1:
        cli("SET", "big", "x" * 100_000)
    server.kill()
    server.wait()
    server = start()
    equal(cli("GET", "counter"), str(20 * (round + 1)), "acknowledged, then killed")
    equal(cli("GET", f"k{round}-19"), "v" * 100)
cli("BGSAVE")
settled("rdb_bgsave_in_progress", 0)
settled("rdb_last_bgsave_status", "ok")
server.terminate()
equal(server.wait(30), 0)
server = start()
equal(cli("DBSIZE"), "62" if APPENDS else "61")
server.terminate()
equal(server.wait(30), 0)
if APPENDS:
    manifest = [name for name in os.listdir("redis/appendonlydir") if name.endswith(".manifest")][0]
    subprocess.run(["redis-check-aof", f"redis/appendonlydir/{manifest}"], check=True, stdout=subprocess.DEVNULL)
subprocess.run(["redis-check-rdb", "redis/dump.rdb"], check=True, stdout=subprocess.DEVNULL)
"#;

fn needing(programs: &[&str], options: &[&str]) -> Setup {
    Setup::needs(programs).and_options(options)
}

same!(
    /// Not as root: PostgreSQL refuses that, and runs as another user in root's mount.
    postgres_direct,
    needing(&["initdb", "setpriv"], &["--direct", "pgdata/"]).for_all_users(),
    |m| {
        m.py(POSTGRES);
    }
);

same!(
    redis_with_an_append_only_file_direct,
    needing(&["redis-server"], &["--direct", "redis/"]),
    |m| {
        m.py(&format!("APPENDS = True\n{REDIS}"));
    }
);

same!(
    /// Snapshots are new files that are renamed into place: they need no pattern.
    redis_with_snapshots,
    needing(&["redis-server"], &[]),
    |m| {
        m.py(&format!("APPENDS = False\n{REDIS}"));
    }
);
