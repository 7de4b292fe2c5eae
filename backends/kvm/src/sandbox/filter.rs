//! The rules as programs that the kernel runs before every system call.
//!
//! They are put together here and not by seccompiler, whose programs are four times as long: the
//! kernel checks and translates each while the machine starts, once for every thread.

use seccompiler::{BpfProgram, sock_filter};

use super::rules::{self, Allowed, Only, Role};

/// Codes of the instructions: load a word of what is known about the call, mask it, jump, end.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_IF_EQUAL: u16 = 0x15;
const JUMP_IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Where the words are: the call's number, the mode it was made in, the low half of an argument.
const CALL: u32 = 0;
const MODE: u32 = 4;
const ARGUMENTS: u32 = 16;

/// Calls of 64-bit programs, AUDIT_ARCH_X86_64.
const THIS_MODE: u32 = 0xc000_003e;

/// From here on, calls of 64-bit programs with short pointers.
const SHORT_POINTERS: u32 = 0x4000_0000;

/// Answers: go on; a signal, so that the call can be told (see `trap`); an error number.
const ALLOW: u32 = 0x7fff_0000;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;

/// One program for each kind of thread, made once.
#[derive(Debug)]
pub(super) struct Filters {
    pub(super) main: BpfProgram,
    pub(super) vcpu: BpfProgram,
    pub(super) device: BpfProgram,
    pub(super) save: BpfProgram,
}

impl Filters {
    /// The programs for the process `pid`.
    pub(super) fn new(pid: u32) -> Self {
        let program = |role| compile(&rules::allowed(role, pid));
        Self {
            main: program(Role::Main),
            vcpu: program(Role::Vcpu),
            device: program(Role::Device),
            save: program(Role::Save),
        }
    }
}

const fn step(code: u16, value: u32) -> sock_filter {
    sock_filter { code, jt: 0, jf: 0, k: value }
}

/// Makes the program of these rules.
fn compile(allowed: &[Allowed]) -> BpfProgram {
    let mut program = vec![
        step(LOAD, MODE),
        sock_filter { code: JUMP_IF_EQUAL, jt: 1, jf: 0, k: THIS_MODE },
        step(RETURN, TRAP),
        step(LOAD, CALL),
        sock_filter { code: JUMP_IF_AT_LEAST, jt: 0, jf: 1, k: SHORT_POINTERS },
        step(RETURN, TRAP),
        // The flags of clone3 are behind a pointer. A program that learns that the kernel does not
        // have it takes clone, whose flags are looked at.
        sock_filter { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k: number(libc::SYS_clone3) },
        step(RETURN, ERRNO | libc::ENOSYS.cast_unsigned()),
    ];
    let mut any = Vec::new();
    let mut limited: Vec<(i64, u8, u32)> = Vec::new();
    for one in allowed {
        match one.only {
            Only::Any => any.push(number(one.call)),
            Only::Masked { index, mask, .. } if !limited.contains(&(one.call, index, mask)) => {
                limited.push((one.call, index, mask));
            }
            Only::Masked { .. } => {}
        }
    }
    for (call, index, mask) in limited {
        let part = argument(allowed, call, index, mask);
        program.push(sock_filter { code: JUMP_IF_EQUAL, jt: 1, jf: 0, k: number(call) });
        program.push(step(JUMP, length(&part)));
        program.extend(part);
    }
    program.extend(allow_if_any(&any));
    program.push(step(RETURN, TRAP));
    program
}

/// What is looked at where the call is `call`. It always answers.
fn argument(allowed: &[Allowed], call: i64, index: u8, mask: u32) -> BpfProgram {
    let values: Vec<u32> = allowed
        .iter()
        .filter(|one| one.call == call)
        .filter_map(|one| match one.only {
            Only::Masked { value, .. } => Some(value),
            Only::Any => None,
        })
        .collect();
    let mut part = vec![step(LOAD, ARGUMENTS + 8 * u32::from(index))];
    if mask != u32::MAX {
        part.push(step(AND, mask));
    }
    part.extend(allow_if_any(&values));
    part.push(step(RETURN, TRAP));
    part
}

/// Allows where the word is one of these and goes on otherwise. Jumps of comparisons are short,
/// so many values are looked at in several turns.
fn allow_if_any(values: &[u32]) -> BpfProgram {
    let turn = |values: &[u32]| {
        let mut turn: BpfProgram = (1..=u8::MAX)
            .zip(values.iter().rev())
            .map(|(jt, value)| sock_filter { code: JUMP_IF_EQUAL, jt, jf: 0, k: *value })
            .collect();
        turn.reverse();
        turn.extend([step(JUMP, 1), step(RETURN, ALLOW)]);
        turn
    };
    values.chunks(usize::from(u8::MAX)).flat_map(turn).collect()
}

fn number(call: i64) -> u32 {
    u32::try_from(call).unwrap_or(u32::MAX)
}

fn length(part: &[sock_filter]) -> u32 {
    u32::try_from(part.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel does; its answer.
    fn answer(program: &[sock_filter], mode: u32, call: i64, arguments: [u64; 6]) -> u32 {
        let word = |at: u32| match at {
            CALL => number(call),
            MODE => mode,
            at => {
                let (index, half) = ((at - ARGUMENTS) / 8, (at - ARGUMENTS) % 8);
                assert_eq!(half, 0);
                u32::try_from(arguments[index as usize] & 0xffff_ffff).unwrap()
            }
        };
        let (mut at, mut held) = (0, 0);
        loop {
            let sock_filter { code, jt, jf, k } = program[at].clone();
            at += 1;
            let choose = |yes| usize::from(if yes { jt } else { jf });
            match code {
                LOAD => held = word(k),
                AND => held &= k,
                JUMP => at += k as usize,
                JUMP_IF_EQUAL => at += choose(held == k),
                JUMP_IF_AT_LEAST => at += choose(held >= k),
                RETURN => return k,
                other => panic!("code {other:#x}"),
            }
        }
    }

    const ROLES: [Role; 4] = [Role::Main, Role::Vcpu, Role::Device, Role::Save];

    fn arguments(only: Only) -> [u64; 6] {
        let mut arguments = [0; 6];
        if let Only::Masked { index, value, .. } = only {
            arguments[usize::from(index)] = u64::from(value);
        }
        arguments
    }

    #[test]
    fn a_program_allows_each_of_its_rules_and_no_other_call() {
        for role in ROLES {
            let rules = rules::allowed(role, 77);
            let program = compile(&rules);
            for one in &rules {
                let found = answer(&program, THIS_MODE, one.call, arguments(one.only));
                let unknown = ERRNO | libc::ENOSYS.cast_unsigned();
                let expected = if one.call == libc::SYS_clone3 { unknown } else { ALLOW };
                assert_eq!(found, expected, "{role:?} {one:?}");
            }
            for call in (0..600).filter(|call| *call != libc::SYS_clone3) {
                if rules.iter().all(|one| one.call != call) {
                    assert_eq!(answer(&program, THIS_MODE, call, [0; 6]), TRAP, "{role:?} {call}");
                }
            }
        }
    }

    #[test]
    fn a_wrong_argument_is_refused() {
        for role in ROLES {
            let rules = rules::allowed(role, 77);
            let program = compile(&rules);
            for one in &rules {
                let Only::Masked { index, mask, .. } = one.only else { continue };
                let mut arguments = arguments(one.only);
                // A bit that is looked at and that no rule of the call has in this way.
                arguments[usize::from(index)] ^= u64::from(mask & mask.wrapping_neg());
                let other = arguments[usize::from(index)];
                let known = rules.iter().any(|rule| {
                    let Only::Masked { value, .. } = rule.only else { return false };
                    rule.call == one.call && u64::from(value) == other & u64::from(mask)
                });
                if !known {
                    let found = answer(&program, THIS_MODE, one.call, arguments);
                    assert_eq!(found, TRAP, "{role:?} {one:?}");
                }
            }
        }
    }

    #[test]
    fn calls_of_other_modes_are_refused() {
        let program = Filters::new(1).main;
        let i386 = 0x4000_0003;
        assert_eq!(answer(&program, THIS_MODE, libc::SYS_read, [0; 6]), ALLOW);
        assert_eq!(answer(&program, i386, libc::SYS_read, [0; 6]), TRAP);
        let short = i64::from(SHORT_POINTERS) | libc::SYS_read;
        assert_eq!(answer(&program, THIS_MODE, short, [0; 6]), TRAP);
    }

    #[test]
    fn more_values_than_a_jump_reaches_are_all_found() {
        let values: Vec<u32> = (1000..1600).collect();
        let mut program = vec![step(LOAD, CALL)];
        program.extend(allow_if_any(&values));
        program.push(step(RETURN, TRAP));
        for (call, expected) in
            [(999, TRAP), (1000, ALLOW), (1255, ALLOW), (1256, ALLOW), (1599, ALLOW), (1600, TRAP)]
        {
            assert_eq!(answer(&program, 0, call, [0; 6]), expected, "{call}");
        }
    }

    #[test]
    fn the_programs_are_short_enough_to_start_with() {
        let Filters { main, vcpu, device, save } = Filters::new(1);
        assert!(main.len() < 300, "{}", main.len());
        for program in [vcpu, device, save] {
            assert!(program.len() < main.len(), "{}", program.len());
        }
    }
}
