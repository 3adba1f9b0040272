//! `xnat run`.

use super::Failure;
use crate::cli::RunArgs;
use crate::config::Settings;
use crate::daemon::{Prepared, Stop};
use crate::net::watch::Watch;
use crate::{api, machine, memory, say};

/// Runs the command.
pub(crate) async fn run(args: RunArgs) -> Result<(), Failure> {
    let settings = Settings::new(args).map_err(Failure::refused)?;
    machine::require().map_err(Failure::refused)?;
    let socket = settings.instance.socket();
    // From here on a signal waits for its turn, so that it cannot leave something half done.
    let mut stop = Stop::catch()?;
    let mut watch = Watch::open()?;
    let (mut daemon, _claim) = Prepared::new(settings).await?.start().await?;
    let served = api::serve(&socket);
    let result = match served {
        Ok(mut requests) => {
            daemon.introduce();
            memory::give_back();
            say::line("ready    Ctrl-C ends it and leaves no trace");
            daemon.serve(&mut stop, &mut watch, &mut requests).await;
            Ok(())
        }
        Err(error) => Err(anyhow::Error::new(error).context(format!("opening {}", socket.display()))),
    };
    let failures = daemon.stop().await;
    for failure in &failures {
        say::warning(failure);
    }
    result?;
    if failures.is_empty() { Ok(()) } else { Err(Failure::Silent) }
}
