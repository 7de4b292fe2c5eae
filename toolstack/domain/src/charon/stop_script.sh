#!/bin/sh
# The common stop script: how the guest of each emulator is shut down.
#
# kxl runs it with the full path of the emulator's configuration as its argument, and with
# KXL_DOMAIN, KXL_DOMID and KXL_UUID in its environment. It has as long as stopwaitsecs of the
# domain says. When it has ended with status 0 the emulator has to end within that time, too; any
# other status is a failed stop. After a failed stop the power is taken away.
#
# kxl stop-script check tells how far each case has got.

# HOST USER COMMAND: runs a command over ssh, with a key that needs no password.
stop_by_ssh() {
    ssh -o BatchMode=yes -o ConnectTimeout=10 "$2@$1" "$3"
}

# HOST USER COMMAND: the same over rsh.
stop_by_rsh() {
    rsh -l "$2" "$1" "$3"
}

# USER PASSWORD_FILE COMMAND: logs in on the console and types a command; the password is the
# first line of a file that nobody but root can read.
stop_by_expect() {
    STOP_USER=$1 STOP_COMMAND=$3 STOP_PASSWORD=$(head -n 1 "$2") expect <<'END'
set timeout 60
spawn kxl console --steal $env(KXL_DOMAIN)
send "\r"
expect {
    -re "(?i)(username|login):" { send "$env(STOP_USER)\r" }
    timeout { exit 1 }
}
expect {
    -re "(?i)password:" { send "$env(STOP_PASSWORD)\r" }
    timeout { exit 1 }
}
expect -re {[$#>] ?$}
send "$env(STOP_COMMAND)\r"
set timeout -1
expect {
    ">>>" { exit 0 }
    eof { exit 0 }
}
END
}

# Waits until the console shows the prompt of a halted machine, then presses F6, which ends an
# emulator whose console has stop_on="F6".
switch_off() {
    until kxl console --log "$KXL_DOMAIN" | tail -n 2 | grep -q '>>>'; do
        sleep 2
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
