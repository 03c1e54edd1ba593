//! Compilers, package installers, build systems.

use std::path::{Path, PathBuf};

use crate::harness::{Mounted, same};

same!(
    /// A package from a wheel that is made on the spot: no network is needed.
    pip_install,
    |m| {
        m.py(MAKE_WHEEL);
        m.sh_same(
            "content,mode,owner,-direct_url,-RECORD,-__pycache__",
            r#"umask 022; pip="/usr/bin/env python3 -m pip --disable-pip-version-check --no-cache-dir -q"
            export PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore PYTHONPATH=
            $pip install --no-index --target site $TMPDIR/little-1.0-py3-none-any.whl
            PYTHONPATH=site python3 -c 'import little; print(little.VALUE, len(little.NAMES))'
            $pip install --no-index --target site --upgrade $TMPDIR/little-1.1-py3-none-any.whl
            PYTHONPATH=site python3 -c 'import little; print(little.VALUE, len(little.NAMES))'
            python3 -m compileall -q site; PYTHONPATH=site python3 -c 'import little.part7; print(little.part7.N)'"#,
        );
    }
);

const MAKE_WHEEL: &str = r#"
import base64, zipfile
for number in ("1.0", "1.1"):
    info = f"little-{number}.dist-info"
    files = {"little/__init__.py": f"VALUE = '{number}'\nfrom pathlib import Path\nNAMES = sorted(p.name for p in Path(__file__).parent.glob('*.py'))\n"}
    for n in range(40):
        files[f"little/part{n}.py"] = f"N = {n}\n" * (n + 1)
    files[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: little\nVersion: {number}\n"
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    record = []
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},{len(text)}")
    files[f"{info}/RECORD"] = "\n".join(record + [f"{info}/RECORD,,"]) + "\n"
    with zipfile.ZipFile(f"{TMP}/little-{number}-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
"#;

same!(
    /// What was just built starts: no ETXTBSY, no half a program.
    built_programs_start,
    |m| {
        m.sh(r#"printf '#include <stdio.h>\nint main(void) { printf("%%d\\n", N); return 0; }\n' > p.c
            for n in $(seq 40); do gcc -DN=$n -o p p.c && test "$(./p)" = $n; done
            for n in $(seq 300); do printf '#!/bin/sh\necho %s\n' $n > s; chmod +x s; test "$(./s)" = $n; done
            printf 'all: a b\na b: p.c\n\tgcc -DN=7 -o $@ $<\n' > Makefile; make -sj2; ./a; ./b; make -s
            ar rc lib.a p.c; ar t lib.a; strip a; ./a"#);
        m.py(r#"
program = read("/bin/true")
for number in range(100):
    write("true", program)
    os.chmod("true", 0o755)
    subprocess.run(["./true"], check=True)
"#);
    }
);

/// The Rust toolchain that the tests were built with, where the user can reach it.
fn lend_rust(m: &Mounted) -> PathBuf {
    let sysroot = std::process::Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()))
        .args(["--print", "sysroot"])
        .output()
        .expect("ask rustc for its directory");
    let sysroot = String::from_utf8(sysroot.stdout).expect("a path in UTF-8");
    m.lend(Path::new(sysroot.trim()), "rust")
}

same!(cargo_build, |m| {
    let rust = lend_rust(m);
    m.sh(&format!(
        r#"export PATH={}/bin:$PATH CARGO_HOME=$HOME/cargo CARGO_INCREMENTAL=1; unset RUSTUP_TOOLCHAIN
        cargo new -q --vcs none --name little crate; cd crate; mkdir src/bin
        echo 'pub fn value() -> u32 {{ 1 }} #[test] fn it() {{ assert!(value() > 0); }}' > src/lib.rs
        echo 'fn main() {{ println!("{{}}", little::value()); }}' > src/main.rs
        cargo build -q --offline; test "$(./target/debug/little)" = 1; cargo test -q --offline > /dev/null
        sleep 1; sed -i 's/1/2/' src/lib.rs; test "$(cargo run -q --offline)" = 2
        cargo build --offline 2>&1 | tee log.txt; if grep -q Compiling log.txt; then exit 1; fi
        for n in 3 4 5; do sed -i "s/{{ [0-9] }}/{{ $n }}/" src/lib.rs; touch src/lib.rs; test "$(cargo run -q --offline)" = $n; done
        sed -i 's/5/2/' src/lib.rs; touch src/lib.rs
        cargo build -q --offline --release; test "$(./target/release/little)" = 2; cargo clean -q; test ! -e target"#,
        rust.display()
    ));
});

same!(
    /// A virtual environment in the mount, and a package installed into it and taken out again.
    virtual_environment,
    |m| {
        m.py(MAKE_WHEEL);
        m.sh(r#"export PYTHONPATH= PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=
            /usr/bin/python3 -m venv --without-pip venv; . venv/bin/activate
            pip() { /usr/bin/python3 -m pip --python venv/bin/python "$@"; }
            pip install -q --no-index $TMPDIR/little-1.0-py3-none-any.whl; python -c 'import little; assert little.VALUE == "1.0"'
            pip install -q --no-index --upgrade $TMPDIR/little-1.1-py3-none-any.whl; python -c 'import little; assert little.VALUE == "1.1"'
            pip uninstall -q -y little; if python -c 'import little' 2> /dev/null; then exit 1; fi; pip check"#);
    }
);

same!(
    /// package.json, package-lock.json and node_modules: rewritten, and several installs at once.
    npm,
    Setup::needs(&["npm", "node"]),
    |m| {
        m.sh_same(
            "content,mode,-.package-lock.json",
            r#"export npm_config_cache=$HOME/npm npm_config_audit=false npm_config_fund=false npm_config_update_notifier=false npm_config_offline=true
            for name in one two three; do
                mkdir -p lib/$name; echo "module.exports = '$name'" > lib/$name/index.js
                (cd lib/$name; npm init -y > init.log 2>&1; npm pkg set description="the $name"; rm init.log)
            done
            mkdir app; cd app; npm init -y > init.log; rm init.log
            npm install -s ../lib/one ../lib/two; node -p 'require("one") + require("two")'
            npm install -s ../lib/three; npm uninstall -s one; npm ls --parseable | sed 's,.*/,,'
            (for n in 1 2 3 4 5; do npm pkg set a=$n; done) & (for n in 1 2 3 4 5; do npm pkg set b=$n; done) & wait
            node -e 'JSON.parse(require("fs").readFileSync("package.json"))'; npm pkg delete a b; npm ci -s; node -p 'require("three")'"#,
        );
    }
);

same!(
    /// Cargo.lock is made, kept and changed; two cargos wait for each other by their own lock.
    cargo_locks,
    |m| {
        let script = r#"export PATH=RUST/bin:$PATH CARGO_HOME=$PWD/cargo CARGO_NET_OFFLINE=true; unset RUSTUP_TOOLCHAIN
            cargo new -q --vcs none --lib inner; cargo new -q --vcs none outer; cd outer
            cargo generate-lockfile -q; cat Cargo.lock; cp Cargo.lock first
            echo 'inner = { path = "../inner" }' >> Cargo.toml; cargo metadata -q --format-version 1 > /dev/null; cat Cargo.lock
            cargo metadata -q --locked --format-version 1 > /dev/null; sed -i '$d' Cargo.toml
            (cargo metadata -q --format-version 1 > /dev/null) & (cargo metadata -q --format-version 1 > /dev/null) & wait
            cmp Cargo.lock first; rm -r ../cargo"#;
        let rust = lend_rust(m).display().to_string();
        m.sh_same("content", &script.replace("RUST", &rust));
    }
);
