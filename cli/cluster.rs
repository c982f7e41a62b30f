//! `peptalk cluster`: the processes that run the plans of an ingest on more than one machine.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::Subcommand;
use ingest::distributed;

#[derive(Subcommand)]
pub(crate) enum Cluster {
    /// Hand out work to executors; whoever reaches this address can have work done
    Scheduler {
        /// Where to listen
        #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:50050")]
        bind: SocketAddr,
    },
    /// Do the work that a scheduler hands out
    Executor {
        /// The scheduler
        #[arg(long, value_name = "HOST:PORT", value_parser = address)]
        scheduler: (String, u16),
        /// Where other executors fetch what this one has made
        #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:50051")]
        bind: SocketAddr,
        /// Name under which other machines find this one [default: the IP of --bind]
        #[arg(long, value_name = "HOST")]
        host: Option<String>,
        /// What plans may hold before they spill
        #[arg(long, value_name = "MIB", default_value_t = 1024)]
        memory_mib: u64,
        /// Folder for what stages leave for each other, on a disk of this machine
        #[arg(long, value_name = "DIR")]
        work: PathBuf,
    },
}

fn address(text: &str) -> Result<(String, u16), String> {
    let (host, port) = text.rsplit_once(':').ok_or("expected HOST:PORT")?;
    Ok((host.to_owned(), port.parse().map_err(|_| format!("{port:?} is no port"))?))
}

/// Runs until the process is ended.
pub(crate) fn run(what: Cluster) -> Result<()> {
    match what {
        Cluster::Scheduler { bind } => Ok(distributed::scheduler(bind)?),
        Cluster::Executor { scheduler, bind, host, memory_mib, work } => {
            let host = host.unwrap_or_else(|| bind.ip().to_string());
            Ok(distributed::executor((&scheduler.0, scheduler.1), bind, &host, memory_mib, &work)?)
        }
    }
}
