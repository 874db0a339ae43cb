//! `lowrank generate`.

use std::io::Write;
use std::path::PathBuf;

use lowrank_models::{Sampling, Stop, Tokenizer, generate};

use crate::args::{DeviceArgs, ModelArgs, load};
use crate::failure::{Failure, Result};
use crate::show::complain;

/// New tokens if nobody says.
const MAX_NEW: usize = 64;

/// Options of `generate`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  lowrank generate --prompt \"Alice was\"
  lowrank generate --adapter lowrank-out --prompt \"To be, or not to be\" --temperature 0
  lowrank generate --model ./SmolLM2-135M --adapter ./out --prompt \"Q: \" --max-new 200 --top-p 0.9 --seed 7")]
pub struct Args {
    /// Text to continue
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: String,
    /// Adapter directory
    #[arg(long, value_name = "DIR")]
    adapter: Option<PathBuf>,
    /// Most new tokens [default: 64, or what the model has positions for]
    #[arg(long, value_name = "N")]
    max_new: Option<usize>,
    /// What logits are divided by; 0 takes the most likely token
    #[arg(long, value_name = "X", default_value_t = 0.8)]
    temperature: f64,
    /// Draw from the smallest set of tokens with at least this probability
    #[arg(long, value_name = "P", default_value_t = 0.95)]
    top_p: f64,
    /// Seed of the draws
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    device: DeviceArgs,
}

/// Prints the prompt and its continuation, token by token.
pub fn run(args: &Args) -> Result<()> {
    let device = args.device.open()?;
    let (_, model, tokenizer) = load(&args.model, args.adapter.as_deref(), &device)?;
    let mut prompt = tokenizer.encode(&args.prompt, true)?;
    if prompt.is_empty() {
        // Nothing to continue: the model's start of a text.
        prompt.extend(model.config().bos_token_id);
    }
    let positions = model.config().max_position_embeddings;
    if prompt.is_empty() || prompt.len() > positions {
        return Err(Failure::new(format!(
            "--prompt: has {} tokens; the model takes 1 to {positions} (max_position_embeddings)",
            prompt.len()
        )));
    }
    let room = positions - prompt.len() + 1;
    let max_new = match args.max_new {
        Some(n) if n > room => {
            return Err(Failure::new(format!(
                "--max-new: {n} after a prompt of {} tokens is more than the model's max_position_embeddings of \
                 {positions} allow; at most {room}",
                prompt.len()
            )));
        }
        Some(n) => n,
        None => MAX_NEW.min(room),
    };
    let sampling = Sampling { temperature: args.temperature, top_p: args.top_p, seed: args.seed };
    let mut stream = Stream::new(&tokenizer, &prompt)?;
    if write(&args.prompt).is_err() {
        return Ok(());
    }
    let mut undecoded = None;
    let done = generate(&model, &prompt, max_new, &sampling, &mut |token| match stream.push(token) {
        // A reader that went away ends the text.
        Ok(text) => write(&text).is_ok(),
        Err(e) => {
            undecoded = Some(e);
            false
        }
    })?;
    if let Some(e) = undecoded {
        return Err(e);
    }
    // As above: nobody is left to be told.
    let _ = write(&stream.rest()).and_then(|()| write("\n"));
    if done.stop == Stop::Positions {
        complain(&format!("the text ends here: the model has {positions} positions"));
    }
    Ok(())
}

fn write(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Tokens to text as they come. A character can take several tokens, so text is held back until it is whole.
struct Stream<'a> {
    tokenizer: &'a Tokenizer,
    ids: Vec<u32>,
    /// All text of `ids`.
    text: String,
    /// Bytes of it that are out.
    out: usize,
}

impl<'a> Stream<'a> {
    fn new(tokenizer: &'a Tokenizer, prompt: &[u32]) -> Result<Self> {
        let text = tokenizer.decode(prompt)?;
        Ok(Stream { tokenizer, ids: prompt.to_vec(), out: text.len(), text })
    }

    /// The text that is new with this token.
    fn push(&mut self, token: u32) -> Result<String> {
        self.ids.push(token);
        self.text = self.tokenizer.decode(&self.ids)?;
        Ok(if self.text.ends_with('\u{fffd}') { String::new() } else { self.rest() })
    }

    /// What has been held back.
    fn rest(&mut self) -> String {
        let new = self.text.get(self.out..).unwrap_or("").to_string();
        self.out = self.out.max(self.text.len());
        new
    }
}
