//! xnat

fn main() {}
