//! The examples of `mount/SEMANTICS.md` and `mount/CONTROL.md`, run as they stand there.
//!
//! A block marked `console` is a session: what stands behind `$ ` is given to one
//! bash, line by line, in a directory of its own in the mount (those of CONTROL.md in its root); what
//! it prints, errors too, must be the other lines of the block.

use crate::harness::{Mounted, mount_only};

const SEMANTICS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/SEMANTICS.md"));

const CONTROL: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/CONTROL.md"));

struct Example {
    line: usize,
    commands: String,
    printed: String,
}

fn examples(document: &str) -> Vec<Example> {
    let mut examples: Vec<Example> = Vec::new();
    let mut inside = false;
    for (number, line) in document.lines().enumerate() {
        if line == "```console" {
            inside = true;
            examples.push(Example {
                line: number + 1,
                commands: String::new(),
                printed: String::new(),
            });
        } else if line == "```" {
            inside = false;
        } else if inside && let Some(example) = examples.last_mut() {
            let (to, text) = match line.strip_prefix("$ ") {
                Some(command) => (&mut example.commands, command),
                None => (&mut example.printed, line),
            };
            to.push_str(text);
            to.push('\n');
        }
    }
    examples
}

/// Runs the examples of `document`, each below the directory that `place` names.
fn try_examples(m: &Mounted, name: &str, document: &str, place: impl Fn(usize) -> String) {
    for example in examples(document) {
        let script = m.tmp().join(format!("example-{}.sh", example.line));
        std::fs::write(&script, &example.commands).expect("the script");
        let printed = m.sh(&format!(
            "{}; LC_ALL=C.UTF-8 LANGUAGE=en bash {} 2>&1 || :",
            place(example.line),
            script.display()
        ));
        let line = example.line;
        assert_eq!(printed, example.printed, "{name}, example in line {line}");
    }
}

mount_only!(
    /// Every example prints what the document says.
    the_examples_are_true,
    |m| {
        assert!(examples(SEMANTICS).len() >= 8, "the document has lost its examples");
        let fresh = |line| format!("mkdir line-{line}; cd line-{line}");
        try_examples(m, "SEMANTICS.md", SEMANTICS, fresh);
    }
);

mount_only!(
    /// Those of the control channel, too.
    the_examples_of_the_control_channel_are_true,
    |m| {
        assert!(!examples(CONTROL).is_empty(), "the document has lost its examples");
        try_examples(m, "CONTROL.md", CONTROL, |_| ":".to_owned());
    }
);
