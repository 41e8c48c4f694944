//! Reads nginx's configuration files: which files belong to it, where it listens, what lies outside.
//!
//! It judges nothing; `nginx -t` does that. What it can't follow it names among the problems.

mod build;
mod files;
pub mod lexer;
mod listen;
mod outside;
pub mod title;

pub use build::{Build, Flavour};
pub use files::{MAX_BYTES, MAX_DEPTH, MAX_FILES, NginxConfig, Outside, Place, Problem, read};
pub use lexer::{LexError, Lexer, Token, TokenKind};
pub use listen::{Listen, ListenAddress, Protocol};
pub use outside::{Named, TICKETS, also_line, outside};
