//! Changing a JSON text in one place and leaving every other byte as it is.
//!
//! What others wrote keeps its order, its spacing, the keys nobody here knows and numbers that no
//! Rust type holds. Additions take on the indentation around them.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserializer as _, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// Why a text cannot be changed.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// It is not JSON.
    #[error("not valid JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// A value on the way has another type.
    #[error("{key} is not {expected}")]
    Type {
        /// Its keys, with dots.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
}

/// Sets the value at a path of keys, making the objects on the way; a null is taken for absent.
///
/// # Errors
/// When the text is not JSON, or something on the way is not an object.
pub fn set(text: &str, path: &[&str], value: &Value) -> Result<String, EditError> {
    let mut at = root(text)?;
    for (depth, key) in path.iter().enumerate() {
        let members = members(text, &at, &path[..depth])?;
        let Some(member) = members.iter().rev().find(|member| member.key == *key) else {
            let item = Item { key: Some(key), value: &nested(&path[depth + 1..], value) };
            return Ok(insert(text, &at, &members, item));
        };
        let last = depth + 1 == path.len();
        if last || text[member.value.clone()] == *"null" {
            let value = nested(&path[depth + 1..], value);
            return Ok(replace(text, &member.value, &render(text, at.start, &value)));
        }
        at = member.value.clone();
    }
    Ok(render(text, 0, value))
}

/// Appends to the array at a path of keys, making it and the objects on the way.
///
/// # Errors
/// When the text is not JSON, or something on the way has another type.
pub fn push(text: &str, path: &[&str], value: &Value) -> Result<String, EditError> {
    match find(text, path)? {
        Some(at) if text[at.clone()] != *"null" => {
            let elements = elements(text, &at, path)?;
            Ok(insert(text, &at, &elements, Item { key: None, value }))
        }
        _ => set(text, path, &Value::Array(vec![value.clone()])),
    }
}

/// Removes the value at a path of keys, and the objects on the way that are empty then. A text
/// without it stays as it is.
///
/// # Errors
/// When the text is not JSON, or something on the way is not an object.
pub fn remove(text: &str, path: &[&str]) -> Result<String, EditError> {
    let Some((last, parents)) = path.split_last() else { return Ok(text.to_owned()) };
    let Some(at) = find(text, parents)?.filter(|at| text[at.clone()] != *"null") else {
        return Ok(text.to_owned());
    };
    let members = members(text, &at, parents)?;
    let Some(position) = members.iter().rposition(|member| member.key == *last) else {
        return Ok(text.to_owned());
    };
    if members.len() == 1 {
        return match parents {
            [] => Ok(replace(text, &(at.start + 1..at.end - 1), "")),
            parents => remove(text, parents),
        };
    }
    let cut = match position {
        0 => key_start(text, at.start + 1)..key_start(text, members[0].value.end),
        n => members[n - 1].value.end..members[n].value.end,
    };
    Ok(replace(text, &cut, ""))
}

/// The value at a path of keys, as it is written.
///
/// # Errors
/// When the text is not JSON, or something on the way is not an object.
pub fn get<'t>(text: &'t str, path: &[&str]) -> Result<Option<&'t str>, EditError> {
    Ok(find(text, path)?.map(|at| &text[at]))
}

fn find(text: &str, path: &[&str]) -> Result<Option<Range<usize>>, EditError> {
    let mut at = root(text)?;
    for (depth, key) in path.iter().enumerate() {
        if text[at.clone()] == *"null" {
            return Ok(None);
        }
        let members = members(text, &at, &path[..depth])?;
        // Of several members with one key the last counts, for Go as for others.
        match members.into_iter().rev().find(|member| member.key == *key) {
            Some(member) => at = member.value,
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// A member of an object, or with an empty key an element of an array.
#[derive(Debug)]
struct Part {
    key: String,
    value: Range<usize>,
}

/// What is to be added to an object (with its key) or an array.
struct Item<'a> {
    key: Option<&'a str>,
    value: &'a Value,
}

fn root(text: &str) -> Result<Range<usize>, EditError> {
    let raw: &RawValue = serde_json::from_str(text)?;
    Ok(place(text, raw))
}

/// Where a value that was parsed from `text` stands in it.
fn place(text: &str, raw: &RawValue) -> Range<usize> {
    let start = raw.get().as_ptr().addr() - text.as_ptr().addr();
    start..start + raw.get().len()
}

fn members(text: &str, at: &Range<usize>, path: &[&str]) -> Result<Vec<Part>, EditError> {
    struct Members<'t>(&'t str);
    impl<'t> Visitor<'t> for Members<'t> {
        type Value = Vec<Part>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Vec<Part>, A::Error> {
            let mut parts = Vec::new();
            while let Some((key, raw)) = map.next_entry::<String, &RawValue>()? {
                parts.push(Part { key, value: place(self.0, raw) });
            }
            Ok(parts)
        }
    }
    if !text[at.clone()].starts_with('{') {
        return Err(wrong_type(path, "an object"));
    }
    Ok(serde_json::Deserializer::from_str(&text[at.clone()]).deserialize_map(Members(text))?)
}

fn elements(text: &str, at: &Range<usize>, path: &[&str]) -> Result<Vec<Part>, EditError> {
    struct Elements<'t>(&'t str);
    impl<'t> Visitor<'t> for Elements<'t> {
        type Value = Vec<Part>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array")
        }
        fn visit_seq<A: SeqAccess<'t>>(self, mut list: A) -> Result<Vec<Part>, A::Error> {
            let mut parts = Vec::new();
            while let Some(raw) = list.next_element::<&RawValue>()? {
                parts.push(Part { key: String::new(), value: place(self.0, raw) });
            }
            Ok(parts)
        }
    }
    if !text[at.clone()].starts_with('[') {
        return Err(wrong_type(path, "an array"));
    }
    Ok(serde_json::Deserializer::from_str(&text[at.clone()]).deserialize_seq(Elements(text))?)
}

fn wrong_type(path: &[&str], expected: &'static str) -> EditError {
    let key = if path.is_empty() { "the file".into() } else { path.join(".") };
    EditError::Type { key, expected }
}

fn nested(path: &[&str], value: &Value) -> Value {
    path.iter().rev().fold(value.clone(), |value, key| {
        Value::Object([((*key).to_owned(), value)].into_iter().collect())
    })
}

/// Adds an item at the end of the object or array at `at`.
fn insert(text: &str, at: &Range<usize>, parts: &[Part], item: Item<'_>) -> String {
    let key = item.key.map(|key| format!("{}: ", Value::from(key))).unwrap_or_default();
    let outer = line_indent(text, at.start);
    let Some(last) = parts.last() else {
        let inside = at.start + 1..at.end - 1;
        let item = format!("{key}{}", render(text, at.start, item.value));
        return match unit(text) {
            Some(unit) => {
                let item = item.replace('\n', &format!("\n{unit}"));
                replace(text, &inside, &format!("\n{outer}{unit}{item}\n{outer}"))
            }
            None => replace(text, &inside, &item),
        };
    };
    // Beside others on lines of their own, on a line of its own.
    let first = key_start(text, at.start + 1);
    let separator = match text[at.start..first].contains('\n') {
        true => format!(",\n{}", line_indent(text, first)),
        false => ", ".to_owned(),
    };
    let item = format!("{separator}{key}{}", render(text, first, item.value));
    replace(text, &(last.value.end..last.value.end), &item)
}

/// A value as it is written on the line of `at`: over several lines where the text is.
fn render(text: &str, at: usize, value: &Value) -> String {
    let Some(unit) = unit(text) else { return value.to_string() };
    let Ok(pretty) = serde_json::to_string_pretty(value) else { return value.to_string() };
    let indent = line_indent(text, at);
    let mut lines = pretty.lines();
    let mut written = lines.next().unwrap_or_default().to_owned();
    for line in lines {
        let content = line.trim_start();
        // serde_json indents by two spaces.
        let depth = (line.len() - content.len()) / 2;
        written.extend(["\n", indent].into_iter().chain(std::iter::repeat_n(unit, depth)));
        written.push_str(content);
    }
    written
}

/// The indentation of one level, when the text is written over several lines.
fn unit(text: &str) -> Option<&str> {
    let start = text.find('{')? + 1;
    let first = key_start(text, start);
    if !text[start..first].contains('\n') {
        return None;
    }
    Some(line_indent(text, first)).filter(|indent| !indent.is_empty()).or(Some("  "))
}

/// The white space that begins the line of `at`.
fn line_indent(text: &str, at: usize) -> &str {
    let line = &text[text[..at].rfind('\n').map_or(0, |newline| newline + 1)..];
    &line[..line.len() - line.trim_start_matches([' ', '\t']).len()]
}

/// Where the next key, value or bracket begins.
fn key_start(text: &str, from: usize) -> usize {
    let rest = &text[from..];
    from + rest.len() - rest.trim_start_matches([' ', '\t', '\r', '\n', ',']).len()
}

fn replace(text: &str, at: &Range<usize>, with: &str) -> String {
    format!("{}{with}{}", &text[..at.start], &text[at.end..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const TABBED: &str = "{\n\t\"big\": 123456789012345678901234567890.10,\n\t\"list\": [\n\t\t1\n\t],\n\t\"z\": {}, \"a\" : null }\n";

    #[test]
    fn additions_look_like_their_surroundings() {
        assert_eq!(
            push(TABBED, &["list"], &json!({"x": [1]})).unwrap(),
            TABBED.replace("\t\t1\n", "\t\t1,\n\t\t{\n\t\t\t\"x\": [\n\t\t\t\t1\n\t\t\t]\n\t\t}\n")
        );
        assert_eq!(
            set(TABBED, &["z", "k"], &json!(true)).unwrap(),
            TABBED.replace("{},", "{\n\t\t\"k\": true\n\t},")
        );
        assert_eq!(
            set(r#"{"a":{"b":1}}"#, &["a", "c"], &json!({"d": 2})).unwrap(),
            r#"{"a":{"b":1, "c": {"d":2}}}"#
        );
        assert_eq!(set("{}", &["a", "b"], &json!(1)).unwrap(), r#"{"a": {"b":1}}"#);
        assert_eq!(
            set("{\n}\n", &["a", "b"], &json!(1)).unwrap(),
            "{\n  \"a\": {\n    \"b\": 1\n  }\n}\n"
        );
    }

    #[test]
    fn a_null_is_an_absent_part() {
        assert_eq!(
            push(r#"{"hooks":null}"#, &["hooks", "x"], &json!(1)).unwrap(),
            r#"{"hooks":{"x":[1]}}"#
        );
        assert_eq!(remove(r#"{"a":null}"#, &["a", "b"]).unwrap(), r#"{"a":null}"#);
    }

    #[test]
    fn what_was_added_is_removed_again() {
        for text in ["{}", "{\n}\n", TABBED, r#"{"r":{"x":{"path":"p"}}}"#, r#"{ "r" : 1 }"#] {
            let added = set(text, &["new", "mcrun"], &json!({"path": "p"})).unwrap();
            let there = get(&added, &["new", "mcrun", "path"]).unwrap();
            assert_eq!(there, Some("\"p\""), "{added}");
            assert_eq!(get(&remove(&added, &["new", "mcrun"]).unwrap(), &["new"]).unwrap(), None);
        }
        let text = "{\"r\": {\"a\": 1, \"b\": 2, \"c\": 3}}";
        assert_eq!(remove(text, &["r", "a"]).unwrap(), "{\"r\": {\"b\": 2, \"c\": 3}}");
        assert_eq!(remove(text, &["r", "c"]).unwrap(), "{\"r\": {\"a\": 1, \"b\": 2}}");
    }

    #[test]
    fn what_has_another_type_is_named() {
        let error = set(r#"{"a":[1]}"#, &["a", "b"], &json!(1)).unwrap_err().to_string();
        assert_eq!(error, "a is not an object");
        let error = push(r#"{"a":{"b":"x"}}"#, &["a", "b"], &json!(1)).unwrap_err().to_string();
        assert_eq!(error, "a.b is not an array");
        assert_eq!(
            set("[]", &["a"], &json!(1)).unwrap_err().to_string(),
            "the file is not an object"
        );
        assert!(set("{", &["a"], &json!(1)).unwrap_err().to_string().starts_with("not valid JSON"));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-c\"{}\\[\\],: \n\u{e9}]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ab,\"]{0,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// The text says afterwards what the value would, changed in the same way.
        #[test]
        fn the_change_is_the_one_asked_for(value in any_json(), pretty: bool) {
            let text = match pretty {
                true => serde_json::to_string_pretty(&value).unwrap(),
                false => value.to_string(),
            };
            if let Ok(changed) = set(&text, &["a", "new"], &json!([1])) {
                let mut expected = value.clone();
                let object = expected.as_object_mut().unwrap();
                let a = object.entry("a").or_insert(Value::Null);
                if a.is_null() { *a = json!({}); }
                a["new"] = json!([1]);
                prop_assert_eq!(serde_json::from_str::<Value>(&changed).unwrap(), expected.clone());
                let removed = remove(&changed, &["a", "new"]).unwrap();
                let object = expected.as_object_mut().unwrap();
                object["a"].as_object_mut().unwrap().remove("new");
                if object["a"] == json!({}) { object.remove("a"); }
                prop_assert_eq!(serde_json::from_str::<Value>(&removed).unwrap(), expected);
            }
            if let Ok(changed) = push(&text, &["a", "b"], &json!({"k": 1})) {
                let changed: Value = serde_json::from_str(&changed).unwrap();
                let list = changed["a"]["b"].as_array().unwrap();
                prop_assert_eq!(list.last().unwrap(), &json!({"k": 1}));
            }
        }
    }
}
