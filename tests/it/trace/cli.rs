//! The option `--trace`, on the command line and in the environment.

use crate::core::cli::{ask, tincan};
use tincan::Config;
use tincan::config::WingOptions;

#[test]
fn it_is_a_switch() {
    let help = String::from_utf8(tincan(&["--help"]).stdout).unwrap();
    assert!(help.contains("--trace"), "{help}");
    let out = tincan(&["--trace=1"]);
    let text = String::from_utf8(out.stderr).unwrap();
    assert_eq!((out.status.code(), text.lines().count()), (Some(2), 1), "{text}");
    assert!(text.starts_with("tincan: ") && text.contains("takes no value"), "{text}");
    assert!(out.stdout.is_empty());
    let mut further = WingOptions::default();
    further.set("trace", "1");
    let expected = Config { wing_options: further, ..Config::default() };
    assert_eq!(ask(&[], &[("TINCAN_TRACE", "true")]).unwrap(), expected);
}
