//! Measures reading, storing and building of 10,000 files, beside `rsync -a`: `cargo run --release
//! -p standin-tree --example measure [DIRECTORY]`.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use standin_tree::build::Builder;
use standin_tree::globs::Globs;
use standin_tree::manifest::Manifest;
use standin_tree::read::{Reader, Spec};
use standin_tree::store::{Generation, Id, Origin, Store};

const FOLDERS: usize = 100;
const FILES: usize = 100;

fn timed<T>(
    what: &str,
    job: impl FnOnce() -> Result<T, Box<dyn Error>>,
) -> Result<T, Box<dyn Error>> {
    let (begin, cpu) = (Instant::now(), cpu_ms());
    let done = job()?;
    let ms = begin.elapsed().as_secs_f64() * 1000.0;
    println!("{what:<44} {ms:>8.1} ms, {:>6.0} ms of CPU", cpu_ms() - cpu);
    Ok(done)
}

/// CPU time of this process in milliseconds.
fn cpu_ms() -> f64 {
    let clock = rustix::time::ClockId::ProcessCPUTime;
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec as f64 * 1e3 + now.tv_nsec as f64 / 1e6
}

fn main() -> Result<(), Box<dyn Error>> {
    let base = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::Builder::new().prefix("standin-measure").tempdir_in(base)?;
    let live = dir.path().join("live");
    for folder in 0..FOLDERS {
        let folder = live.join(format!("{folder:03}"));
        fs::create_dir_all(&folder)?;
        for file in 0..FILES {
            let text = format!("# {folder:?} {file}\n").repeat(1 + file % 40);
            fs::write(folder.join(format!("site-{file:03}.conf")), text)?;
        }
    }
    println!("{} files in {FOLDERS} directories", FOLDERS * FILES);
    std::thread::sleep(std::time::Duration::from_secs(4));
    let copy = dir.path().join("rsync");
    timed("rsync -a, first", || rsync(&live, &copy))?;
    timed("rsync -a, nothing to do", || rsync(&live, &copy))?;
    let spec = Spec::new([live.clone()], Globs::new(&["*.swp", "*~"])?)?;
    let store = Store::open(&dir.path().join("store"))?;
    let mut reader = Reader::new();
    timed("read and hash, without a store", || {
        Ok(Reader::new().read(&spec, None, &mut |_| {})?)
    })?;
    let scan =
        timed("read, hash and store", || Ok(reader.read(&spec, Some(&store), &mut |_| {})?))?;
    timed("commit to the disk", || Ok(store.commit(&[])?))?;
    timed("read again, nothing changed", || Ok(reader.read(&spec, Some(&store), &mut |_| {})?))?;
    let manifest = scan.manifest;
    let hash = timed("name of the manifest", || Ok(manifest.hash()))?;
    let bytes = timed("encode", || Ok(manifest.encode()?))?;
    timed("decode", || Ok(Manifest::decode(&bytes)?))?;
    println!("{:<44} {:>8} bytes", "encoded", bytes.len());
    let generation = Generation {
        id: Id { number: 1, hash },
        origin: Origin::Generation,
        parents: Vec::new(),
        node: "n1".into(),
        when_ms: 1,
        why: "measured".into(),
    };
    timed("record", || Ok(store.record(&generation, &manifest)?))?;
    let staged = dir.path().join("staged");
    let root = &manifest.roots()[0];
    timed("build", || Ok(Builder::new(&store).build(root, &staged, None)?))?;
    timed("sync of what was built", || Ok(store.commit(&[&staged])?))?;
    fs::write(live.join("050/site-050.conf"), "one change")?;
    let scan =
        timed("read, one file changed", || Ok(reader.read(&spec, Some(&store), &mut |_| {})?))?;
    let staged_spec = Spec::new([staged.clone()], Globs::default())?;
    let mut staged_reader = Reader::new();
    staged_reader.read(&staged_spec, None, &mut |_| {})?;
    let present = timed("read the staged tree again", || {
        Ok(staged_reader.read(&staged_spec, None, &mut |_| {})?)
    })?;
    let root = &scan.manifest.roots()[0];
    let present = &present.manifest.roots()[0];
    timed("build that over it", || {
        Ok(Builder::new(&store).build(root, &staged, Some(present))?)
    })?;
    timed("sync of that", || Ok(store.commit(&[&staged])?))?;
    timed("forget what nobody names", || {
        Ok(store.collect(&[], standin_tree::store::Bounds::DEFAULT)?)
    })?;
    Ok(())
}

fn rsync(from: &Path, to: &Path) -> Result<(), Box<dyn Error>> {
    let mut source = from.as_os_str().to_owned();
    source.push("/");
    let done = Command::new("rsync").arg("-a").arg(source).arg(to).status()?;
    if done.success() { Ok(()) } else { Err(format!("rsync: {done}").into()) }
}
