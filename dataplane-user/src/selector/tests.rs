//! Rows S01–S30 of the behaviour table, and the round trip of text and tree.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{Node, Selector};

fn labels() -> BTreeMap<String, String> {
    [("a", "x"), ("b", ""), ("env", "prod-eu"), ("k8s-app", "web"), ("kubernetes.io/hostname", "n1")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
}

fn eval(text: &str) -> bool {
    Selector::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).matches(&labels())
}

fn refused(text: &str) -> String {
    match Selector::parse(text) {
        Ok(selector) => panic!("{text} was read as {selector}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn evaluation() {
    for (text, expected) in [
        ("", true),
        ("   \t", true),
        ("all()", true),
        ("all( )", true),
        ("global()", true),
        ("has(kubernetes.io/hostname)", true),
        ("has( a )", true),
        ("has(b)", true),
        ("has(zz)", false),
        ("a == 'x'", true),
        ("a==\"x\"", true),
        ("a != 'x'", false),
        ("zz != 'x'", true),
        ("zz == ''", false),
        ("b == ''", true),
        ("zz not in {'x'}", true),
        ("zz notin {'x'}", true),
        ("a not\tin{'x',}", false),
        ("a in {}", false),
        ("a not in {}", true),
        ("zz in {'x'}", false),
        ("a in {'y', \"x\",}", true),
        ("env ends with '-eu'", true),
        ("env endswith '-eu'", true),
        ("env contains 'od-'", true),
        ("env startswith'prod'", true),
        ("zz contains ''", false),
        ("b contains ''", true),
        ("!a == 'x'", false),
        ("!!a == 'x'", true),
        ("! ! ! a == 'x'", false),
        ("!has(a) || env starts with 'prod' && k8s-app in {'web','fe'}", true),
        ("has(a) || has(a) && has(zz)", true),
        ("(has(a) || has(a)) && has(zz)", false),
        ("a == \"it's\"", false),
    ] {
        assert_eq!(eval(text), expected, "{text}");
    }
}

#[test]
fn operators_and_functions_are_legal_keys() {
    for key in ["in", "has", "all", "global", "contains", "not", "starts"] {
        let selector = Selector::parse(&format!("{key} in {{'x'}}")).unwrap();
        assert_eq!(selector, Selector::is_in(key, ["x"]));
    }
}

#[test]
fn errors() {
    for text in [
        "has (a)",
        "a == x",
        "a = 'x'",
        "(a == 'x'",
        "a == 'x')",
        "a == 'x' b",
        "a inx {'y'}",
        "a == 'x",
        "a & b",
        "has(a) | has(b)",
        "a in 'x'",
        "a in {'x'",
        "a in {'x' 'y'}",
        "a",
        "has()",
        "()",
        "!",
        "has(a) &&",
        "&& has(a)",
        "a ==\n'x'",
        "a in {,}",
        "'a' == 'x'",
        "all(a)",
        "a == 'x' 'y'",
        "a < 'x'",
        "ä == 'x'",
        "has(a",
        "a not {'x'}",
    ] {
        refused(text);
    }
}

#[test]
fn length_limits() {
    let key = "k".repeat(512);
    assert!(Selector::parse(&format!("has({key})")).is_ok());
    assert!(refused(&format!("has({key}k)")).contains("512"));
    let long = format!("{}has(a)", " ".repeat(1018));
    assert!(Selector::parse(&long).is_ok());
    assert!(refused(&format!(" {long}")).contains("1024"));
    // The deepest text within the limit must not exhaust the stack.
    let nested = |depth| format!("{}has(a){}", "(".repeat(depth), ")".repeat(depth));
    assert!(eval(&nested(64)));
    assert!(refused(&nested(500)).contains("nested deeper than 64"));
}

#[test]
fn messages_point_at_the_column_and_say_what_to_write() {
    assert_eq!(
        refused("nodeport-external-ingress: true"),
        "selector, column 26: expected an operator after `nodeport-external-ingress`; write \
         `nodeport-external-ingress == 'true'`\n    nodeport-external-ingress: true\n                             ^"
    );
    assert!(refused("a = 'x'").contains("write `a == 'x'`"));
    assert!(refused("a == x").contains("write 'x' in quotes"));
    assert!(refused("has (a)").contains("without the blank"));
    assert!(refused("kubernetes-host").contains("has(kubernetes-host)"));
    assert!(refused("a == 'x' and b == 'y'").contains("write `&&`"));
}

#[test]
fn prefixes_and_combinations() {
    let selector = Selector::parse("team == 'x' && !has(y) || all()").unwrap().with_key_prefix("pcns.");
    assert_eq!(selector.to_string(), "pcns.team == 'x' && !has(pcns.y) || all()");
    let both = Selector::parse("has(a) || has(b)").unwrap().and(Selector::has("c"));
    assert_eq!(both.to_string(), "(has(a) || has(b)) && has(c)");
    assert_eq!(Selector::all().and(Selector::has("c")), Selector::has("c"));
    assert!(Selector::parse("!(has(a) && global())").unwrap().mentions_global());
    assert!(!Selector::none().matches(&labels()));
}

fn any_node() -> impl Strategy<Value = Node> {
    let key = || "[A-Za-z0-9_./-]{1,8}".prop_map(String::from);
    let value = || prop_oneof!["[^'\"]{0,6}", "[^']{0,6}", "[^\"]{0,6}"];
    let values = move || proptest::collection::vec(value(), 0..4);
    let leaf = prop_oneof![
        Just(Node::All),
        Just(Node::Global),
        key().prop_map(Node::Has),
        (key(), value()).prop_map(|(k, v)| Node::Equals(k, v)),
        (key(), value()).prop_map(|(k, v)| Node::NotEquals(k, v)),
        (key(), value()).prop_map(|(k, v)| Node::Contains(k, v)),
        (key(), value()).prop_map(|(k, v)| Node::StartsWith(k, v)),
        (key(), value()).prop_map(|(k, v)| Node::EndsWith(k, v)),
        (key(), values()).prop_map(|(k, v)| Node::In(k, v)),
        (key(), values()).prop_map(|(k, v)| Node::NotIn(k, v)),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(Node::negate),
            proptest::collection::vec(inner.clone(), 2..4).prop_map(Node::And),
            proptest::collection::vec(inner, 2..4).prop_map(Node::Or),
        ]
    })
}

proptest! {
    #[test]
    fn text_reads_back_as_the_same_tree(root in any_node()) {
        let text = root.to_string();
        prop_assume!(text.chars().count() <= super::MAX_SELECTOR_CHARS);
        prop_assert_eq!(Selector::parse(&text).map_err(|e| TestCaseError::fail(e.to_string()))?.root, root);
    }

    #[test]
    fn never_panics(text in "[a-c!&|=(){}', \"\nä]{0,40}") {
        let _ = Selector::parse(&text).map_err(|e| e.to_string());
    }
}

#[test]
fn whoever_is_matched_has_the_label_that_narrows() {
    let narrowing = |text: &str| {
        let selector = Selector::parse(text).unwrap();
        selector.narrowing().map(|(key, values)| (key.to_owned(), values.map(|v| v.join(","))))
    };
    let some = |key: &str, values: Option<&str>| Some((key.to_owned(), values.map(str::to_owned)));
    assert_eq!(narrowing("has(a) && b in {'x', 'y'} && c == 'z'"), some("c", Some("z")));
    assert_eq!(narrowing("has(a) && !has(b)"), some("a", None));
    assert_eq!(narrowing("a starts with 'x'"), some("a", None));
    assert_eq!(narrowing("a in {}"), some("a", Some("")));
    for text in
        ["a != 'x'", "a not in {'x'}", "!has(a)", "all()", "a == 'x' || b == 'y'", "!(a == 'x' && b == 'y')"]
    {
        assert_eq!(narrowing(text), None, "{text}");
    }
}
