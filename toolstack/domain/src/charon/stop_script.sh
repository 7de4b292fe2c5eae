#!/bin/sh
# The common stop script: how the guest of each emulator is shut down.
#
# kxl runs it with the full path of the emulator's configuration as its argument, and with
# KXL_DOMAIN, KXL_DOMID and KXL_UUID in its environment. It has as long as stopwaitsecs of the
# domain says. When it has ended with status 0 the emulator has to end within that time, too; any
# other status is a failed stop. After a failed stop the power is taken away.
#
# kxl stop-script check tells how far each case has got.

# HOST USER COMMAND: runs a command over ssh, with a key that needs no password, of a host that is
# known. A guest that goes down may take the connection with it: that is no failure.
stop_by_ssh() {
    said=$(ssh -n -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=10 \
        -l "$2" "$1" "$3" 2>&1)
    status=$?
    printf '%s\n' "$said"
    case "$status $said" in
        255*"Connection to "*" closed by remote host"*) status=0 ;;
        255*"Timeout, server "*" not responding"*) status=0 ;;
        255*"client_loop: "* | 255*"Read from remote host "*) status=0 ;;
    esac
    return "$status"
}

# HOST USER COMMAND: the same over rsh, which tells nothing of how the command went, and waits for
# ever for a guest that has gone.
stop_by_rsh() {
    rsh -l "$2" "$1" "$3" < /dev/null &
    while kill -0 "$!" 2> /dev/null; do
        halted && return 0
        sleep 1
    done
    wait "$!"
}

# USER PASSWORD_FILE COMMAND: logs in on the console, where nobody is logged in, and types a
# command; the password is the first line of a file that nobody but root can read.
stop_by_expect() {
    STOP_PASSWORD=$(head -n 1 "$2") && [ -n "$STOP_PASSWORD" ] || return 1
    STOP_USER=$1 STOP_COMMAND=$3 STOP_PASSWORD=$STOP_PASSWORD expect <<'END'
proc give_up {why} {
    puts stderr "\nnot shut down: $why"
    exit 1
}
# Nothing that is typed is changed on its way.
set stty_init raw
spawn kxl console --steal --no-replay $env(KXL_DOMAIN)
# What was half typed is not answered by a prompt: then once more.
set timeout 10
set tries 0
send "\r"
expect {
    ">>>" { exit 0 }
    -re {([Uu]sername|[Ll]ogin): *$} { send "$env(STOP_USER)\r" }
    -re {[$#>] *$} { set at_prompt 1 }
    timeout {
        if {[incr tries] > 5} { give_up "the console shows neither a login nor a prompt" }
        send "\r"
        exp_continue
    }
    eof { give_up "the console has gone" }
}
set timeout 60
if {![info exists at_prompt]} {
    expect {
        -re {[Pp]assword: *$} { send "$env(STOP_PASSWORD)\r" }
        timeout { give_up "the console asks for no password" }
        eof { give_up "the console has gone" }
    }
    expect {
        -re {[Aa]uthorization failure|[Ii]ncorrect|[Ii]nvalid} { give_up "the login was refused" }
        -re {[$#>] *$} {}
        timeout { give_up "the login shows no prompt" }
        eof { give_up "the console has gone" }
    }
}
send "$env(STOP_COMMAND)\r"
# The deadline of the whole script is kxl's.
set timeout -1
expect {
    ">>>" { exit 0 }
    eof { exit 0 }
}
END
}

# Whether the console shows the prompt of a halted machine.
halted() {
    kxl console --log "$KXL_DOMAIN" | tail -n 2 | grep -q '>>>'
}

# Waits until the machine is halted, then presses F6, which ends an emulator whose console has
# stop_on="F6".
switch_off() {
    until halted; do
        sleep 1
    done
    { printf '\033[17~'; sleep 1; } | kxl console --steal "$KXL_DOMAIN" > /dev/null
}

to_customize() {
    echo "the stop script has to be customized for this configuration" >&2
    exit 1
}

case "$1" in
    @CASES@
    *)
        echo "the stop script has no case for $1" >&2
        exit 1
        ;;
esac
