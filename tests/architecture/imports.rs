//! What the files of a crate use of each other, read from their text.
//!
//! A file is parsed, not compiled: counted are paths that begin with `crate`, `super`, `self` or
//! the name of a child module, in `use`, in types and expressions, in the arguments of macros and
//! in the strings of attributes. Whatever a file uses of another module it names in one of these
//! ways at least once. Code behind `#[cfg(test)]` is left out.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, Ident, Literal, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree, Visibility};

/// Texts of source files by their paths: `src/net/mod.rs`.
pub(super) type Files = BTreeMap<String, String>;

/// Names from the crate's root: `["net", "netns", "NetNs"]`.
type Path = Vec<String>;

/// One place where a file uses something of the crate.
pub(super) struct Import {
    pub(super) file: String,
    pub(super) line: usize,
    pub(super) path: Path,
    /// `pub use` of something in a module below this one. Others see that there, and the file
    /// itself does not use it.
    pub(super) is_reexport: bool,
}

/// A crate.
#[derive(Default)]
pub(super) struct Tree {
    pub(super) imports: Vec<Import>,
    modules: BTreeMap<Path, Module>,
}

struct Module {
    file: String,
    /// Names that a `use` brings in, with what they stand for.
    names: BTreeMap<String, Path>,
}

impl Tree {
    /// # Panics
    /// At a file that is not Rust.
    pub(super) fn read(files: &Files) -> Tree {
        let mut tree = Tree::default();
        let mut tests = BTreeSet::new();
        for (file, text) in files {
            let parsed = syn::parse_file(text).unwrap_or_else(|e| panic!("{file}: {e}"));
            let module = module_of(file);
            tree.add_module(&module, file);
            let mut reader =
                Reader { tree: &mut tree, tests: &mut tests, file, module, children: Vec::new() };
            reader.read_items(&parsed.items);
        }
        let is_test = |module: &Path| tests.iter().any(|test| module.starts_with(test));
        tree.imports.retain(|import| !is_test(&module_of(&import.file)));
        tree.modules.retain(|module, _| !is_test(module));
        tree
    }

    /// Names of the modules at the crate's root.
    pub(super) fn top_modules(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().filter(|path| path.len() == 1).map(|path| path[0].as_str())
    }

    /// All files.
    pub(super) fn files(&self) -> BTreeSet<&str> {
        self.modules.values().map(|module| module.file.as_str()).collect()
    }

    /// The file that holds what a path leads to, behind all `use` on the way.
    pub(super) fn file_of(&self, path: &[String]) -> &str {
        self.follow(path, 0)
    }

    fn follow(&self, path: &[String], depth: usize) -> &str {
        let is_module = |length: &usize| self.modules.contains_key(&path[..*length]);
        let at = (0..=path.len()).rev().find(is_module).unwrap_or_default();
        let module = &self.modules[&path[..at]];
        match path.get(at).and_then(|name| module.names.get(name)) {
            // A name that stands for itself, and a circle of them, ends somewhere.
            Some(target) if depth < 16 => {
                let path: Path = target.iter().chain(&path[at + 1..]).cloned().collect();
                self.follow(&path, depth + 1)
            }
            _ => &module.file,
        }
    }

    fn add_module(&mut self, path: &Path, file: &str) {
        let module = Module { file: file.to_owned(), names: BTreeMap::new() };
        self.modules.insert(path.clone(), module);
    }
}

/// The module whose file this is.
fn module_of(file: &str) -> Path {
    let name = file.trim_start_matches("src/").trim_end_matches(".rs");
    let name = name.trim_end_matches("/mod");
    name.split('/').filter(|part| *part != "lib").map(str::to_owned).collect()
}

/// Reads one file.
struct Reader<'a> {
    tree: &'a mut Tree,
    /// Modules that are compiled for tests alone.
    tests: &'a mut BTreeSet<Path>,
    file: &'a str,
    module: Path,
    /// The child modules of each module around what is read.
    children: Vec<BTreeSet<String>>,
}

impl Reader<'_> {
    fn read_items(&mut self, items: &[Item]) {
        let children = items.iter().filter_map(|item| match item {
            Item::Mod(module) => Some(module.ident.to_string()),
            _ => None,
        });
        self.children.push(children.collect());
        for item in items {
            self.visit_item(item);
        }
        self.children.pop();
    }

    /// The path from the crate's root; none for what is not of this crate.
    fn absolute(&self, path: &[String]) -> Option<Path> {
        let mut module = self.module.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => {
                module.clear();
                rest = &path[1..];
            }
            "self" => rest = &path[1..],
            "super" => {
                while let Some(("super", behind)) =
                    rest.split_first().map(|(first, behind)| (first.as_str(), behind))
                {
                    module.pop();
                    rest = behind;
                }
            }
            child if self.children.last().is_some_and(|names| names.contains(child)) => {}
            _ => return None,
        }
        Some(module.into_iter().chain(rest.iter().cloned()).collect())
    }

    fn add(&mut self, path: &[String], line: usize, is_public: bool) -> Option<Path> {
        let path = self.absolute(path)?;
        let is_below = path.starts_with(&self.module) && path.len() > self.module.len();
        self.tree.imports.push(Import {
            file: self.file.to_owned(),
            line,
            path: path.clone(),
            is_reexport: is_public && is_below,
        });
        Some(path)
    }

    fn read_use(&mut self, tree: &UseTree, before: &mut Path, is_public: bool) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.read_use(&path.tree, before, is_public);
                before.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.read_use(tree, before, is_public);
                }
            }
            UseTree::Glob(glob) => {
                let line = glob.star_token.spans[0].start().line;
                self.add(before, line, is_public);
            }
            UseTree::Name(name) => self.read_name(&name.ident, &name.ident, before, is_public),
            UseTree::Rename(name) => self.read_name(&name.ident, &name.rename, before, is_public),
        }
    }

    fn read_name(&mut self, name: &Ident, known_as: &Ident, before: &Path, is_public: bool) {
        let mut path = before.clone();
        // `use a::{self}` is `use a`.
        if name != "self" || before.is_empty() {
            path.push(name.to_string());
        }
        let line = name.span().start().line;
        let Some(path) = self.add(&path, line, is_public) else { return };
        let known_as = match known_as.to_string() {
            own if own == "self" => path.last().cloned().unwrap_or_default(),
            other => other,
        };
        if let Some(module) = self.tree.modules.get_mut(&self.module) {
            module.names.insert(known_as, path);
        }
    }

    /// Paths of this crate in the arguments of a macro or an attribute.
    fn read_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Group(group) if group.delimiter() != Delimiter::None => {
                    self.read_tokens(group.stream());
                }
                TokenTree::Ident(first) => {
                    let mut path = vec![first.to_string()];
                    while let Some(TokenTree::Ident(next)) = tokens.get(at + 3)
                        && is_colon(&tokens[at + 1])
                        && is_colon(&tokens[at + 2])
                    {
                        path.push(next.to_string());
                        at += 3;
                    }
                    if path.len() > 1 {
                        self.add(&path, first.span().start().line, false);
                    }
                }
                TokenTree::Literal(literal) => self.read_string(literal),
                _ => {}
            }
            at += 1;
        }
    }

    /// `#[serde(with = "crate::...")]`
    fn read_string(&mut self, literal: &Literal) {
        let text = literal.to_string();
        let path: Path = text.trim_matches('"').split("::").map(str::to_owned).collect();
        if path.len() > 1 && ["crate", "super", "self"].contains(&path[0].as_str()) {
            self.add(&path, literal.span().start().line, false);
        }
    }
}

fn is_colon(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == ':')
}

/// Whether an item is compiled for tests alone.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")).any(|attribute| {
        let words = match &attribute.meta {
            syn::Meta::List(list) => list.tokens.to_string(),
            _ => return false,
        };
        let mut words = words.split(|c: char| !c.is_alphanumeric() && c != '_');
        let has_test = words.clone().any(|word| word == "test");
        has_test && !words.any(|word| word == "not")
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_for_tests(attributes(item)) {
            if let Item::Mod(module) = item {
                let mut path = self.module.clone();
                path.push(module.ident.to_string());
                self.tests.insert(path);
            }
            return;
        }
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        let Some((_, items)) = &module.content else { return };
        self.module.push(module.ident.to_string());
        let path = self.module.clone();
        self.tree.add_module(&path, self.file);
        self.read_items(items);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if item.leading_colon.is_none() {
            let is_public = !matches!(item.vis, Visibility::Inherited);
            self.read_use(&item.tree, &mut Path::new(), is_public);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let attributes = match item {
            syn::ImplItem::Const(item) => &item.attrs[..],
            syn::ImplItem::Fn(item) => &item.attrs,
            syn::ImplItem::Type(item) => &item.attrs,
            _ => &[],
        };
        if !is_for_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if !is_for_tests(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Path = path.segments.iter().map(|part| part.ident.to_string()).collect();
        // One word names something that is in the file already.
        if path.leading_colon.is_none() && names.len() > 1 {
            self.add(&names, path.segments[0].ident.span().start().line, false);
        }
        visit::visit_path(self, path);
    }

    /// `pub(in crate::proxy)` uses nothing.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        visit::visit_path(self, &call.path);
        self.read_tokens(call.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.read_tokens(list.tokens.clone());
        }
    }
}
