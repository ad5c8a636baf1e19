//! Valid objects with one or two small changes, by a seeded chance.

use serde_json::{Map, Value, json};

const SEED: u64 = 20_261_121;

/// `count` spoilt objects; some are still valid.
pub fn some(valid: &[Value], count: usize) -> Vec<Value> {
    let mut dice = Dice(SEED);
    (0..count)
        .map(|_| {
            let mut object = valid[dice.below(valid.len())].clone();
            for _ in 0..=dice.below(2) {
                spoil(&mut object, &mut dice);
            }
            object
        })
        .collect()
}

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) >> 33).unwrap_or_default() % end.max(1)
    }
}

fn spoil(object: &mut Value, dice: &mut Dice) {
    // What the object is must stay: the request's path says it.
    let mut places = Vec::new();
    list_places(&object["spec"], "/spec".to_owned(), &mut places);
    if places.is_empty() {
        return;
    }
    let place = places.swap_remove(dice.below(places.len()));
    let Some((parent, key)) = place.rsplit_once('/') else { return };
    let other = match dice.below(8) {
        // Something of elsewhere in the same object.
        0 => {
            let mut all = Vec::new();
            list_places(&object["spec"], "/spec".to_owned(), &mut all);
            object.pointer(&all[dice.below(all.len())]).cloned().unwrap_or_default()
        }
        _ => fresh(dice),
    };
    let change = dice.below(10);
    match object.pointer_mut(parent) {
        Some(Value::Object(fields)) => change_field(fields, key, other, change, dice),
        Some(Value::Array(items)) => {
            let Ok(index) = key.parse::<usize>() else { return };
            match change {
                0..2 => drop(items.remove(index)),
                2..4 => items.push(items[index].clone()),
                4..6 => items.push(other),
                6 => items[index] = twist(&items[index], dice),
                _ => items[index] = other,
            }
        }
        _ => {}
    }
}

fn change_field(fields: &mut Map<String, Value>, key: &str, other: Value, change: usize, dice: &mut Dice) {
    match change {
        0..2 => drop(fields.remove(key)),
        2 => {
            let value = fields.remove(key).unwrap_or_default();
            fields.insert(format!("{key}s"), value);
        }
        3..5 => drop(fields.insert(FIELDS[dice.below(FIELDS.len())].to_owned(), other)),
        5..8 => {
            let value = twist(fields.get(key).unwrap_or(&Value::Null), dice);
            fields.insert(key.to_owned(), value);
        }
        _ => drop(fields.insert(key.to_owned(), other)),
    }
}

const FIELDS: [&str; 24] = [
    "action",
    "protocol",
    "notProtocol",
    "icmp",
    "notICMP",
    "ipVersion",
    "source",
    "destination",
    "nets",
    "notNets",
    "ports",
    "notPorts",
    "selector",
    "notSelector",
    "namespaceSelector",
    "serviceAccounts",
    "services",
    "types",
    "order",
    "preDNAT",
    "doNotTrack",
    "applyOnForward",
    "interfaceName",
    "http",
];

/// A value that stands somewhere in objects, or nearly.
fn fresh(dice: &mut Dice) -> Value {
    let values = [
        json!(null),
        json!(""),
        json!([]),
        json!({}),
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(-1),
        json!(4),
        json!(6),
        json!(17),
        json!(58),
        json!(255),
        json!(256),
        json!(65_535),
        json!(65_536),
        json!(1.5),
        json!("TCP"),
        json!("tcp"),
        json!("UDP"),
        json!("ICMP"),
        json!("ICMPv6"),
        json!("6"),
        json!("06"),
        json!("80"),
        json!("80:90"),
        json!("90:80"),
        json!("+80:90"),
        json!("http"),
        json!("1-2"),
        json!("10.0.0.0/8"),
        json!("10.0.0.1"),
        json!("10.0.0.1/8"),
        json!("010.0.0.0/8"),
        json!("10.0.0.0/08"),
        json!("0.0.0.0/0"),
        json!("::/0"),
        json!("fd00::/8"),
        json!("fd00::1"),
        json!("1::2::3"),
        json!("::ffff:10.0.0.1"),
        json!("::ffff:0:0/96"),
        json!("256.0.0.1"),
        json!("10.0.0.0/33"),
        json!("fd00::/129"),
        json!("all()"),
        json!("global()"),
        json!("a == 'b'"),
        json!("a = 'b'"),
        json!("(has(a)"),
        json!("has(a))"),
        json!("!has(a) && b in {'c',}"),
        json!("a in { }"),
        json!("a notin {'b'}"),
        json!("ain {'b'}"),
        json!("has (a)"),
        json!("a"),
        json!("Allow"),
        json!("allow"),
        json!("Egress"),
        json!(["Egress"]),
        json!(["Ingress", "Ingress"]),
        json!(["10.0.0.0/8"]),
        json!(["fd00::/8"]),
        json!(["10.0.0.0/8", "fd00::/8"]),
        json!([80]),
        json!(["80"]),
        json!(["http"]),
        json!({"type": 8}),
        json!({"code": 0}),
        json!({"name": "s", "namespace": "n"}),
        json!({"name": "s"}),
        json!({"names": ["a"]}),
        json!({"selector": ""}),
        json!([{"action": "Allow"}]),
        json!({"nets": ["10.0.0.0/8"]}),
        json!("eth0"),
        json!("*"),
        json!("a-name-that-is-too-long"),
    ];
    values[dice.below(values.len())].clone()
}

/// The same in other clothes.
fn twist(value: &Value, dice: &mut Dice) -> Value {
    match value {
        Value::String(text) => match dice.below(6) {
            0 => text.to_uppercase().into(),
            1 => text.to_lowercase().into(),
            2 => format!("{text} ").into(),
            3 => text.parse::<i64>().map_or_else(|_| json!([text]), Value::from),
            4 => text.chars().skip(1).collect::<String>().into(),
            _ => text.chars().rev().collect::<String>().into(),
        },
        Value::Number(number) => match dice.below(3) {
            0 => number.to_string().into(),
            1 => number.as_i64().map_or(Value::Null, |n| (-n).into()),
            _ => number.as_i64().map_or(Value::Null, |n| n.saturating_mul(1000).into()),
        },
        Value::Bool(flag) => match dice.below(2) {
            0 => (!flag).into(),
            _ => flag.to_string().into(),
        },
        Value::Array(items) => match dice.below(3) {
            0 => items.iter().rev().cloned().collect(),
            1 => items.first().cloned().unwrap_or_default(),
            _ => items.iter().chain(items).cloned().collect(),
        },
        Value::Object(_) | Value::Null => json!([value]),
    }
}

/// JSON pointers of everything below.
fn list_places(value: &Value, at: String, places: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => {
            fields.iter().map(|(key, value)| (key.replace('~', "~0").replace('/', "~1"), value)).collect()
        }
        Value::Array(items) => {
            items.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
        }
        _ => Vec::new(),
    };
    for (key, child) in children {
        let place = format!("{at}/{key}");
        list_places(child, place.clone(), places);
        places.push(place);
    }
}
