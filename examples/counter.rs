//! Counts in a JSON file. Run as many at once as you like, none of the counts is lost:
//! `for i in 1 2 3; do cargo run --example counter -- counter.json & done`

use std::convert::Infallible;
use std::env;
use std::io;

use polystore::{JsonOptions, atomic_update_json};
use serde_json::{Value, json};

fn main() -> io::Result<()> {
    let path = env::args_os()
        .nth(1)
        .unwrap_or_else(|| "counter.json".into());
    let updated = atomic_update_json(&path, &JsonOptions::new(), |current: Option<Value>| {
        let mut value = current.unwrap_or_else(|| json!({}));
        let count = value["count"].as_u64().unwrap_or(0);
        value["count"] = json!(count + 1);
        Ok::<_, Infallible>(value)
    })?;
    println!("{}", updated["count"]);
    Ok(())
}
