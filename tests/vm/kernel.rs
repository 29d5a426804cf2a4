//! A kernel of Debian's: where it is, and its modules in the order in which they can be loaded.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The newest kernel below a root file system, and the directory of its modules; none when there is none.
///
/// # Errors
/// When it has no modules.
pub(super) fn newest(root: &Path) -> Result<Option<(PathBuf, PathBuf)>, String> {
    let newest = fs::read_dir(root.join("boot"))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| Some(name.strip_prefix("vmlinuz-")?.to_owned()))
        .max();
    let Some(release) = newest else { return Ok(None) };
    let kernel = root.join("boot").join(format!("vmlinuz-{release}"));
    // Unpacked, not installed: /lib may be a link on an installed system.
    let modules = ["lib/modules", "usr/lib/modules"].map(|lib| root.join(lib).join(&release));
    let modules = modules.into_iter().find(|path| path.exists());
    Ok(Some((kernel, modules.ok_or(format!("kernel {release} has no modules"))?)))
}

/// The modules and what they depend on, each behind what it depends on, unpacked.
pub(super) fn load_order(modules: &Path, names: &[&str]) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut files = BTreeMap::new();
    list_modules(&modules.join("kernel"), &mut files)?;
    let mut order = Vec::new();
    for name in names {
        load(name, &files, &mut order)?;
    }
    Ok(order)
}

fn list_modules(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            list_modules(&path, files)?;
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn load(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    order: &mut Vec<(String, Vec<u8>)>,
) -> io::Result<()> {
    if order.iter().any(|(loaded, _)| loaded == name) {
        return Ok(());
    }
    let file = files.get(name);
    let file = file.ok_or_else(|| io::Error::other(format!("the kernel has no module {name}")))?;
    let module = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => {
            let output = Command::new("busybox").args(["xz", "-dc"]).arg(file).output()?;
            if !output.status.success() {
                return Err(io::Error::other(format!("{}: {output:?}", file.display())));
            }
            output.stdout
        }
        _ => fs::read(file)?,
    };
    // The section .modinfo holds `depends=NAME,NAME`, ended by a zero (modinfo(8)).
    let text = b"\0depends=";
    let start = module.windows(text.len()).position(|window| window == text);
    let start = start.ok_or_else(|| io::Error::other(format!("{name}: no dependencies in it")))?;
    let rest = &module[start + text.len()..];
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    let needed = String::from_utf8_lossy(&rest[..end]).into_owned();
    for needed in needed.split(',').filter(|needed| !needed.is_empty()) {
        load(&needed.replace('-', "_"), files, order)?;
    }
    order.push((name.to_owned(), module));
    Ok(())
}
