//! `peptalk download`: the sources, their licences, and what came.

use std::path::Path;

use anyhow::Result;
use ingest::download::{Arrived, Mirror, Options, Origin, RECIPE, Registry, run};

/// What is to be fetched from where.
pub(crate) struct Wish {
    registry: Registry,
    options: Options,
}

impl Wish {
    /// # Errors
    /// Faults of the registry, or a mirror that is none.
    pub(crate) fn new(registry: Option<&Path>, mirrors: &[String], update: bool) -> Result<Self> {
        let registry = registry.map_or_else(Registry::built_in, Registry::load)?;
        let mirrors = mirrors.iter().map(|text| Mirror::parse(text)).collect::<Result<_, _>>()?;
        Ok(Self { registry, options: Options { mirrors, update, ..Options::default() } })
    }

    /// Prints what there is.
    pub(crate) fn list(&self) {
        print!("{}", self.registry.list());
    }

    /// # Errors
    /// A name that the registry does not know.
    pub(crate) fn choose(&self, names: &[String]) -> Result<Vec<&Origin>> {
        Ok(self.registry.choose(names)?)
    }

    /// Says whose the sources are, and fetches them.
    ///
    /// # Errors
    /// Files that did not come; I/O.
    pub(crate) fn fetch(&self, sources: &[&Origin], out: &Path) -> Result<()> {
        for source in sources {
            let Origin { name, about, citation, page, .. } = source;
            println!("{name}: {about}\n  {}\n  cite: {citation}\n  page: {page}", source.terms());
        }
        for Arrived { path, bytes, from, compared_with } in run(&self.registry, sources, out, &self.options)?
        {
            println!("{path}: {bytes} bytes\n  from: {from}\n  compared with: {compared_with}");
        }
        println!("recipe: {}", out.join(RECIPE).display());
        Ok(())
    }
}
