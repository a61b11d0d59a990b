//! Which crate may know which.
//!
//! Knowledge points one way, from the edge to the core, so that no cycle can deadlock and no
//! crate knows all. The manifests are read as they are written; what a library brings in turn is
//! not looked at, and neither is what a crate does with a dependency that it may have.

use std::io;

use toml::{Table, Value};

use crate::tidy::manifest;

/// The crates from the core to the edge. Each may depend on those of earlier rows alone, not on
/// its neighbours.
const LAYERS: &[&[&str]] = &[
    &["persistence"],
    &["supervision"],
    &["types"],
    &["activity"],
    &["identity"],
    &["billing"],
    &["confirmations"],
    &["control"],
    &["agents", "broker"],
    &["extensions", "keeping"],
    &["automations", "market"],
    &["portability"],
    &["gateway"],
    &["journeys", "benches"],
];

/// Libraries that only the crates from some layer on may use.
struct Fence {
    /// Names of libraries; `http` stands for `http-body` too.
    families: &'static [&'static str],
    /// The first crate that may.
    from: &'static str,
    /// Whether the tests of an earlier crate may.
    tests_may: bool,
    /// The rule, for the one who broke it.
    why: &'static str,
}

const FENCES: &[Fence] = &[
    Fence {
        families: &["axum", "h2", "http", "hyper", "reqwest", "tower", "utoipa-axum"],
        from: "gateway",
        tests_may: false,
        why: "only the gateway knows HTTP",
    },
    Fence {
        families: &["utoipa"],
        from: "types",
        tests_may: false,
        why: "schemas begin with the types",
    },
    Fence {
        families: &["serde_json"],
        from: "supervision",
        tests_may: true,
        why: "the journal knows bytes, not JSON",
    },
    Fence {
        families: &["ractor"],
        from: "supervision",
        tests_may: false,
        why: "the journal knows no actors",
    },
];

/// What a manifest says of its crate.
struct Crate {
    name: String,
    has_workspace_lints: bool,
    dependencies: Vec<Dependency>,
}

struct Dependency {
    /// The library's own name, whatever the crate calls it.
    name: String,
    is_for_tests: bool,
}

#[test]
fn every_crate_knows_only_those_to_its_left() -> io::Result<()> {
    let workspace = manifest("Cargo.toml")?;
    let members = workspace["workspace"]["members"].as_array().cloned().unwrap_or_default();
    let mut crates = Vec::new();
    for member in members.iter().filter_map(Value::as_str) {
        crates.push(read(&manifest(&format!("{member}/Cargo.toml"))?, &workspace));
    }
    assert!(crates.iter().any(|found| found.name == "journeys"), "this crate was not read");
    let found = violations(&crates);
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), found.join("\n"));
    Ok(())
}

fn read(manifest: &Table, workspace: &Table) -> Crate {
    let mut dependencies = Vec::new();
    let targets = manifest.get("target").and_then(Value::as_table);
    let tables = targets.into_iter().flat_map(Table::values).filter_map(Value::as_table);
    for table in tables.chain([manifest]) {
        for kind in ["dependencies", "build-dependencies", "dev-dependencies"] {
            let entries = table.get(kind).and_then(Value::as_table);
            for (key, value) in entries.into_iter().flatten() {
                let name = package_name(key, value, workspace);
                dependencies.push(Dependency { name, is_for_tests: kind == "dev-dependencies" });
            }
        }
    }
    let name = text(manifest, &["package", "name"]).unwrap_or_default();
    let lints = get(manifest, &["lints", "workspace"]).and_then(Value::as_bool);
    Crate { name, has_workspace_lints: lints == Some(true), dependencies }
}

/// A dependency may be renamed here or where the workspace declares it.
fn package_name(key: &str, value: &Value, workspace: &Table) -> String {
    let renamed = value.get("package").and_then(Value::as_str).map(str::to_owned);
    let inherited = || text(workspace, &["workspace", "dependencies", key, "package"]);
    renamed.or_else(inherited).unwrap_or_else(|| key.to_owned())
}

fn text(table: &Table, path: &[&str]) -> Option<String> {
    get(table, path).and_then(Value::as_str).map(str::to_owned)
}

fn get<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(table.get(*first)?, |value, key| value.get(*key))
}

/// Each way in which the crates break the rules, as a sentence.
fn violations(crates: &[Crate]) -> Vec<String> {
    let mut found = Vec::new();
    for from in crates {
        let name = &from.name;
        let Some(layer) = layer(name) else {
            found.push(format!("{name} has no place in LAYERS"));
            continue;
        };
        if !from.has_workspace_lints {
            found.push(format!("{name} does not take the workspace's lints"));
        }
        for to in &from.dependencies {
            if self::layer(&to.name).is_some_and(|other| other >= layer) {
                found.push(format!("{name} may not know {}", to.name));
            }
            for fence in FENCES.iter().filter(|fence| fence.holds_back(layer, to)) {
                found.push(format!("{name} may not use {}: {}", to.name, fence.why));
            }
        }
    }
    found
}

fn layer(name: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&name))
}

impl Fence {
    fn holds_back(&self, layer: usize, to: &Dependency) -> bool {
        let is_before = self::layer(self.from).is_some_and(|first| layer < first);
        is_before && self.is_about(&to.name) && !(to.is_for_tests && self.tests_may)
    }

    fn is_about(&self, name: &str) -> bool {
        self.families.iter().any(|family| {
            let rest = name.strip_prefix(family);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
    }
}

/// The violations of one crate called `name` with the given tables below its lints.
fn of(name: &str, tables: &str) -> Vec<String> {
    let parse = |text: &str| text.parse::<Table>().unwrap_or_else(|error| panic!("{error}"));
    let head = format!("[package]\nname = \"{name}\"\n[lints]\nworkspace = true\n");
    let workspace =
        parse("[workspace.dependencies]\nweb = { package = \"axum\", version = \"1\" }");
    violations(&[read(&parse(&format!("{head}{tables}")), &workspace)])
}

#[test]
fn a_crate_may_not_know_one_to_its_right_or_beside_it() {
    let clean = Vec::<String>::new();
    assert_eq!(of("billing", "[dependencies]\nidentity.workspace = true"), clean);
    assert_eq!(of("broker", "[dependencies]\ncontrol.path = \"c\""), clean);
    assert_eq!(of("gateway", "[dependencies]\nmarket = \"1\"\npersistence = \"1\""), clean);
    for (name, other) in [
        ("persistence", "supervision"),
        ("identity", "billing"),
        ("agents", "broker"),
        ("broker", "agents"),
        ("market", "gateway"),
        ("gateway", "journeys"),
        ("benches", "journeys"),
        ("types", "types"),
    ] {
        let wanted = [format!("{name} may not know {other}")];
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            assert_eq!(of(name, &format!("[{kind}]\n{other}.workspace = true")), wanted);
        }
        let target = format!("[target.'cfg(unix)'.dependencies]\n{other} = {{ path = \"x\" }}");
        assert_eq!(of(name, &target), wanted);
        let renamed = format!("[dependencies]\nx = {{ package = \"{other}\" }}");
        assert_eq!(of(name, &renamed), wanted);
    }
}

#[test]
fn a_crate_outside_the_order_or_without_lints_is_refused() {
    assert_eq!(of("common", ""), ["common has no place in LAYERS"]);
    let bare = Crate { name: "types".into(), has_workspace_lints: false, dependencies: vec![] };
    assert_eq!(violations(&[bare]), ["types does not take the workspace's lints"]);
}

#[test]
fn libraries_stay_behind_their_fence() {
    let count = |name: &str, kind: &str, library: &str| {
        of(name, &format!("[{kind}]\n{library}.workspace = true")).len()
    };
    for library in ["axum", "axum-core", "hyper", "hyper-util", "tower", "tower-service"] {
        assert_eq!(count("market", "dependencies", library), 1, "{library}");
        assert_eq!(count("types", "dev-dependencies", library), 1, "{library}");
        assert_eq!(count("gateway", "dependencies", library), 0, "{library}");
        assert_eq!(count("journeys", "dev-dependencies", library), 0, "{library}");
    }
    let through_workspace = of("billing", "[dependencies]\nweb.workspace = true");
    assert_eq!(through_workspace, ["billing may not use axum: only the gateway knows HTTP"]);
    assert_eq!(count("control", "dependencies", "utoipa-axum"), 1);
    assert_eq!(count("types", "dependencies", "utoipa"), 0);
    assert_eq!(count("supervision", "dependencies", "utoipa"), 1);
    assert_eq!(count("persistence", "dependencies", "serde_json"), 1);
    assert_eq!(count("persistence", "build-dependencies", "serde_json"), 1);
    assert_eq!(count("persistence", "dev-dependencies", "serde_json"), 0);
    assert_eq!(count("supervision", "dependencies", "serde_json"), 0);
    assert_eq!(count("persistence", "dependencies", "ractor"), 1);
    assert_eq!(count("types", "dependencies", "httparse"), 0);
}
