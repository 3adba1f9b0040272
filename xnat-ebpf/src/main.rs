//! The xnat dataplane.
#![no_std]
#![no_main]
