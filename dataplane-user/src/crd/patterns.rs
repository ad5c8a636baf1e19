//! Regular expressions over the small texts. Each accepts at least what `resource` accepts; the API server's engine is
//! RE2, which has neither backtracking nor look-around.

use serde_json::json;

use super::schema::Schema;
use crate::resource::entity::MAX_NETS;
use crate::resource::scalar::{MAX_PORT_NAME_CHARS, PROTOCOLS};
use crate::selector::MAX_SELECTOR_CHARS;

/// Longest address that embeds an IPv4 address: six groups, and fifteen characters.
const MAX_ADDRESS_CHARS: usize = 45;
/// 1 to 65535 in decimal.
const PORT: &str = "0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";
const BLANKS: &str = "[ \\t]*";

/// A text with a colon: IPv6, as far as a short expression can tell. The admission policies look closer.
const V6: &str = "[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*";

/// An IPv4 address.
fn v4() -> String {
    let byte = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    format!(r"{byte}(\.{byte}){{3}}")
}

/// Networks and addresses of both families. There may be a quarter of a million, which leaves no room for rules of the
/// Common Expression Language in the server's budget.
pub(super) fn net() -> Schema {
    net_behind("(3[0-2]|[12]?[0-9])", "(12[0-8]|1[01][0-9]|[1-9]?[0-9])")
}

fn net_behind(v4_length: &str, v6_length: &str) -> Schema {
    Schema::string().pattern(&format!("^({}(/{v4_length})?|{V6}(/{v6_length})?)$", v4()))
}

/// A network in a short list, checked to the end.
pub(super) fn checked_net() -> Schema {
    Schema::string()
        .with("maxLength", MAX_ADDRESS_CHARS + "/128".len())
        .pattern("^[0-9A-Fa-f:.]+(/[0-9]{1,3})?$")
        .rule(
            "isCIDR(self) || isIP(self)",
            "no network; write address/prefix length, such as 10.0.0.0/8 or fd00::/8",
        )
}

/// Networks of a rule, which are all of one family.
pub(super) fn nets(text: &str) -> Schema {
    one_family(net(), text)
}

/// Networks that a rule excludes. All addresses without all addresses is nobody.
pub(super) fn excluded_nets(text: &str) -> Schema {
    one_family(net_behind("(3[0-2]|[12][0-9]|[1-9])", "(12[0-8]|1[01][0-9]|[1-9][0-9]?)"), text)
}

fn one_family(item: Schema, text: &str) -> Schema {
    let only = |pattern: &str| json!({"items": {"pattern": pattern}});
    Schema::set(item.with("maxLength", MAX_ADDRESS_CHARS + "/128".len()), MAX_NETS)
        .not_empty()
        .with("anyOf", vec![only("^[0-9./]*$"), only(":")])
        .describe(text)
}

/// An address.
pub(super) fn address() -> Schema {
    Schema::string()
        .with("maxLength", MAX_ADDRESS_CHARS)
        .pattern("^[0-9A-Fa-f:.]+$")
        .rule("isIP(self)", "no address; write it as `ip addr` shows it, without the `/` and what follows")
}

/// What a selector may look like: its tokens in their order. Parentheses are not counted.
/// `global`: may `global()` stand alone?
fn selector_pattern(global: bool) -> String {
    let b = BLANKS;
    let text = r#"("[^"]*"|'[^']*')"#;
    let key = "[A-Za-z0-9_./-]+";
    let set = format!(r"\{{{b}({text}{b}(,{b}{text}{b})*(,{b})?)?\}}");
    let compared = format!(
        r"{key}({b}[=!]={b}{text}|[ \t]+(contains|starts{b}with|ends{b}with){b}{text}|[ \t]+(not{b})?in{b}{set})"
    );
    let one = format!(r"[!( \t]*(all\({b}\)|has\({b}{key}{b}\)|{compared})[) \t]*");
    let alone =
        if global { format!(r"|([( \t]*![( \t]*!)*[( \t]*global\({b}\)[) \t]*") } else { String::new() };
    format!(r"^({b}|{one}((&&|\|\|){one})*{alone})$")
}

/// A selector.
pub(super) fn selector(text: &str) -> Schema {
    Schema::string().with("maxLength", MAX_SELECTOR_CHARS).pattern(&selector_pattern(false)).describe(text)
}

/// The namespace selector of a rule.
pub(super) fn selector_or_global(text: &str) -> Schema {
    Schema::string().with("maxLength", MAX_SELECTOR_CHARS).pattern(&selector_pattern(true)).describe(text)
}

/// A protocol of a rule.
pub(super) fn protocol(text: &str) -> Schema {
    let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
    let number = "[1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5]";
    Schema::integer_or_string(1, 255).pattern(&format!("^({}|{number})$", names.join("|"))).describe(text)
}

/// An entry of `ports`: a number, a range, or the name of a port.
pub(super) fn rule_port() -> Schema {
    // A name that is all digits is a number.
    let name = "[A-Za-z0-9_.-]*[A-Za-z_.-][A-Za-z0-9_.-]*";
    Schema::integer_or_string(1, u16::MAX.into())
        .with("maxLength", MAX_PORT_NAME_CHARS)
        .pattern(&format!("^({PORT}(:{PORT})?|{name})$"))
        .describe("A port, a range such as \"8000:8080\", or the name of a port.")
}

/// A port or a range.
pub(super) fn port_range() -> Schema {
    Schema::integer_or_string(1, u16::MAX.into())
        .pattern(&format!("^{PORT}(:{PORT})?$"))
        .describe("A port, or a range such as \"30000:32767\".")
}
