# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_torpor_global_optspecs
    string join \n socket= host= ca= token-file= account= json h/help V/version
end

function __fish_torpor_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_torpor_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_torpor_using_subcommand
    set -l cmd (__fish_torpor_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c torpor -n "__fish_torpor_needs_command" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_needs_command" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_needs_command" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_needs_command" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_needs_command" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_needs_command" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_needs_command" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_needs_command" -s V -l version -d 'Print version'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "task" -d 'Push, list, inspect and remove tasks'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "secret" -d 'Set, list and remove secrets'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "account" -d 'Add, list and remove accounts, and say which users of this host belong to them; for administrators'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "token" -d 'Create, list and remove tokens of callers; for administrators'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "schedule" -d 'Run tasks at the times of cron expressions'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "policy" -d 'Show what a task may do, and where each rule comes from'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "run" -d 'Run a task on one input, wait, and print its result'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "ps" -d 'List executions that have not ended'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "top" -d 'Show who has what of the host and who waits, as it changes; once, as JSON, where the output is no terminal'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "inspect" -d 'Show one execution: state, figures, result or error'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "logs" -d 'Print what a program wrote to its standard output and error'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "events" -d 'Print what happens to an execution, as it happens, until it ends'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "cancel" -d 'Cancel an execution'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "park" -d 'Park an execution that waits, now, whatever its policy says'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "resume" -d 'Give a parked execution its machine back; it keeps it until its next wait'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "signal" -d 'Signal an event that an execution waits for'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "export" -d 'Move a parked execution into a file, for another host: it ends here'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "import" -d 'Take in an execution that another host has exported'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "doctor" -d 'Check this host: KVM, kernel, images, disk, limits, daemon'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "version" -d 'Print the versions of this program and of the daemon'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "completions" -d 'Print a completion script for a shell'
complete -c torpor -n "__fish_torpor_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c torpor -n "__fish_torpor_using_subcommand task; and not __fish_seen_subcommand_from push ls inspect graph rm help" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand task; and not __fish_seen_subcommand_from push ls inspect graph rm help" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand task; and not __fish_seen_subcommand_from push ls inspect graph rm help" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand task; and not __fish_seen_subcommand_from push ls inspect graph rm help" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand task; and not __fish_seen_subcommand_from push ls inspect graph rm help" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand task; and not __fish_seen_subcommand_from push ls inspect graph rm help" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand task; and not __fish_seen_subcommand_from push ls inspect graph rm help" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand task; and not __fish_seen_subcommand_from push ls inspect graph rm help" -f -a "push" -d 'Make a new version of a task from a folder with a torpor.toml'
complete -c torpor -n "__fish_torpor_using_subcommand task; and not __fish_seen_subcommand_from push ls inspect graph rm help" -f -a "ls" -d 'List tasks'
complete -c torpor -n "__fish_torpor_using_subcommand task; and not __fish_seen_subcommand_from push ls inspect graph rm help" -f -a "inspect" -d 'Show one task and its versions'
complete -c torpor -n "__fish_torpor_using_subcommand task; and not __fish_seen_subcommand_from push ls inspect graph rm help" -f -a "graph" -d 'Draw the portions of a task, who calls whom, and what each may use'
complete -c torpor -n "__fish_torpor_using_subcommand task; and not __fish_seen_subcommand_from push ls inspect graph rm help" -f -a "rm" -d 'Remove a task and all its versions'
complete -c torpor -n "__fish_torpor_using_subcommand task; and not __fish_seen_subcommand_from push ls inspect graph rm help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from push" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from push" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from push" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from push" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from push" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from push" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from push" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from ls" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from ls" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from ls" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from ls" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from ls" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from ls" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from ls" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from inspect" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from inspect" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from inspect" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from inspect" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from inspect" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from inspect" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from inspect" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from graph" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from graph" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from graph" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from graph" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from graph" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from graph" -l dot -d 'For Graphviz: `torpor task graph NAME --dot | dot -Tsvg`'
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from graph" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from graph" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from rm" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from rm" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from rm" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from rm" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from rm" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from rm" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from rm" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from help" -f -a "push" -d 'Make a new version of a task from a folder with a torpor.toml'
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from help" -f -a "ls" -d 'List tasks'
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from help" -f -a "inspect" -d 'Show one task and its versions'
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from help" -f -a "graph" -d 'Draw the portions of a task, who calls whom, and what each may use'
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from help" -f -a "rm" -d 'Remove a task and all its versions'
complete -c torpor -n "__fish_torpor_using_subcommand task; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c torpor -n "__fish_torpor_using_subcommand secret; and not __fish_seen_subcommand_from set ls rm help" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand secret; and not __fish_seen_subcommand_from set ls rm help" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand secret; and not __fish_seen_subcommand_from set ls rm help" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand secret; and not __fish_seen_subcommand_from set ls rm help" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand secret; and not __fish_seen_subcommand_from set ls rm help" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand secret; and not __fish_seen_subcommand_from set ls rm help" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand secret; and not __fish_seen_subcommand_from set ls rm help" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand secret; and not __fish_seen_subcommand_from set ls rm help" -f -a "set" -d 'Set a secret to what is typed, or to what comes on standard input: text of at most 16 KiB, without the line end at its end'
complete -c torpor -n "__fish_torpor_using_subcommand secret; and not __fish_seen_subcommand_from set ls rm help" -f -a "ls" -d 'List secrets: their names, and when they were set; nobody can read their values'
complete -c torpor -n "__fish_torpor_using_subcommand secret; and not __fish_seen_subcommand_from set ls rm help" -f -a "rm" -d 'Remove a secret: tasks that declare it can\'t be run until it is set again'
complete -c torpor -n "__fish_torpor_using_subcommand secret; and not __fish_seen_subcommand_from set ls rm help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from set" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from set" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from set" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from set" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from set" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from set" -l keep-line-end -d 'Keep the line end at the end of standard input'
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from set" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from set" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from ls" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from ls" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from ls" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from ls" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from ls" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from ls" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from ls" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from rm" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from rm" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from rm" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from rm" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from rm" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from rm" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from rm" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from help" -f -a "set" -d 'Set a secret to what is typed, or to what comes on standard input: text of at most 16 KiB, without the line end at its end'
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from help" -f -a "ls" -d 'List secrets: their names, and when they were set; nobody can read their values'
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from help" -f -a "rm" -d 'Remove a secret: tasks that declare it can\'t be run until it is set again'
complete -c torpor -n "__fish_torpor_using_subcommand secret; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c torpor -n "__fish_torpor_using_subcommand account; and not __fish_seen_subcommand_from add ls rm allow deny help" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand account; and not __fish_seen_subcommand_from add ls rm allow deny help" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand account; and not __fish_seen_subcommand_from add ls rm allow deny help" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand account; and not __fish_seen_subcommand_from add ls rm allow deny help" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand account; and not __fish_seen_subcommand_from add ls rm allow deny help" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand account; and not __fish_seen_subcommand_from add ls rm allow deny help" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand account; and not __fish_seen_subcommand_from add ls rm allow deny help" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand account; and not __fish_seen_subcommand_from add ls rm allow deny help" -f -a "add" -d 'Add an account, or change its weight'
complete -c torpor -n "__fish_torpor_using_subcommand account; and not __fish_seen_subcommand_from add ls rm allow deny help" -f -a "ls" -d 'List accounts, and the user ids that belong to them'
complete -c torpor -n "__fish_torpor_using_subcommand account; and not __fish_seen_subcommand_from add ls rm allow deny help" -f -a "rm" -d 'Remove an account that has no tasks, secrets, schedules or executions; its tokens and user ids go with it'
complete -c torpor -n "__fish_torpor_using_subcommand account; and not __fish_seen_subcommand_from add ls rm allow deny help" -f -a "allow" -d 'Let a user of this host into an account'
complete -c torpor -n "__fish_torpor_using_subcommand account; and not __fish_seen_subcommand_from add ls rm allow deny help" -f -a "deny" -d 'Take its account from a user of this host'
complete -c torpor -n "__fish_torpor_using_subcommand account; and not __fish_seen_subcommand_from add ls rm allow deny help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from add" -l weight -d 'Its share of a busy host, against those of others [default: 1, or what it has]' -r
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from add" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from add" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from add" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from add" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from add" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from add" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from add" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from ls" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from ls" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from ls" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from ls" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from ls" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from ls" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from ls" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from rm" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from rm" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from rm" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from rm" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from rm" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from rm" -l with-history -d 'Remove its executions that ended first'
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from rm" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from rm" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from allow" -l uid -d 'User id' -r
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from allow" -l role -d 'What that user may do there' -r -f -a "invoker\t'Runs tasks, and sees what becomes of that; sees no code, policy or secret'
owner\t'All within the account'
admin\t'All within every account; accounts, tokens and the host'"
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from allow" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from allow" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from allow" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from allow" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from allow" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from allow" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from allow" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from deny" -l uid -d 'User id' -r
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from deny" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from deny" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from deny" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from deny" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from deny" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from deny" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from deny" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from help" -f -a "add" -d 'Add an account, or change its weight'
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from help" -f -a "ls" -d 'List accounts, and the user ids that belong to them'
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from help" -f -a "rm" -d 'Remove an account that has no tasks, secrets, schedules or executions; its tokens and user ids go with it'
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from help" -f -a "allow" -d 'Let a user of this host into an account'
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from help" -f -a "deny" -d 'Take its account from a user of this host'
complete -c torpor -n "__fish_torpor_using_subcommand account; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c torpor -n "__fish_torpor_using_subcommand token; and not __fish_seen_subcommand_from create ls rm help" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand token; and not __fish_seen_subcommand_from create ls rm help" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand token; and not __fish_seen_subcommand_from create ls rm help" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand token; and not __fish_seen_subcommand_from create ls rm help" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand token; and not __fish_seen_subcommand_from create ls rm help" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand token; and not __fish_seen_subcommand_from create ls rm help" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand token; and not __fish_seen_subcommand_from create ls rm help" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand token; and not __fish_seen_subcommand_from create ls rm help" -f -a "create" -d 'Create a token for the account that --account names, and print it: it is shown once'
complete -c torpor -n "__fish_torpor_using_subcommand token; and not __fish_seen_subcommand_from create ls rm help" -f -a "ls" -d 'List tokens, without what they are'
complete -c torpor -n "__fish_torpor_using_subcommand token; and not __fish_seen_subcommand_from create ls rm help" -f -a "rm" -d 'Remove a token: whoever brings it from now on is refused'
complete -c torpor -n "__fish_torpor_using_subcommand token; and not __fish_seen_subcommand_from create ls rm help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from create" -l role -d 'What whoever brings it may do' -r -f -a "invoker\t'Runs tasks, and sees what becomes of that; sees no code, policy or secret'
owner\t'All within the account'
admin\t'All within every account; accounts, tokens and the host'"
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from create" -l expires -d 'For how long it is good, such as 12h or 30d, at most ten years [default: for ever]' -r
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from create" -l note -d 'What it is for' -r
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from create" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from create" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from create" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from create" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from create" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from create" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from create" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from ls" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from ls" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from ls" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from ls" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from ls" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from ls" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from ls" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from rm" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from rm" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from rm" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from rm" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from rm" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from rm" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from rm" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from help" -f -a "create" -d 'Create a token for the account that --account names, and print it: it is shown once'
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from help" -f -a "ls" -d 'List tokens, without what they are'
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from help" -f -a "rm" -d 'Remove a token: whoever brings it from now on is refused'
complete -c torpor -n "__fish_torpor_using_subcommand token; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and not __fish_seen_subcommand_from add ls inspect pause resume rm help" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and not __fish_seen_subcommand_from add ls inspect pause resume rm help" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and not __fish_seen_subcommand_from add ls inspect pause resume rm help" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and not __fish_seen_subcommand_from add ls inspect pause resume rm help" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and not __fish_seen_subcommand_from add ls inspect pause resume rm help" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and not __fish_seen_subcommand_from add ls inspect pause resume rm help" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and not __fish_seen_subcommand_from add ls inspect pause resume rm help" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and not __fish_seen_subcommand_from add ls inspect pause resume rm help" -f -a "add" -d 'Add a schedule'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and not __fish_seen_subcommand_from add ls inspect pause resume rm help" -f -a "ls" -d 'List schedules'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and not __fish_seen_subcommand_from add ls inspect pause resume rm help" -f -a "inspect" -d 'Show one schedule: its next times, its last execution, what it left out'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and not __fish_seen_subcommand_from add ls inspect pause resume rm help" -f -a "pause" -d 'Run nothing until it is resumed'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and not __fish_seen_subcommand_from add ls inspect pause resume rm help" -f -a "resume" -d 'Go on, from now on: what would have been meanwhile is not missed'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and not __fish_seen_subcommand_from add ls inspect pause resume rm help" -f -a "rm" -d 'Remove a schedule; its executions stay'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and not __fish_seen_subcommand_from add ls inspect pause resume rm help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from add" -l cron -d 'When: minute, hour, day of the month, month, day of the week, such as "0 3 * * *"; or @hourly, @daily, @weekly, @monthly, @yearly' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from add" -l timezone -d 'Time zone of these times, such as Europe/Berlin' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from add" -s i -l input -d 'Input: JSON text, @FILE with JSON, or - for standard input' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from add" -l missed -d 'Times that passed while torpord was away: leave them out, run one execution for all of them, or one for each (the newest 100)' -r -f -a "skip\t''
once\t''
all\t''"
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from add" -l overlap -d 'A time at which the execution before has not ended: leave it out, or run it all the same [default: skip; with --missed all: allow]' -r -f -a "skip\t''
allow\t''"
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from add" -l need-by -d 'When a result is needed, after the time that it is for (30s, 5m, 12h). A busy host may put it off, and has it done by then' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from add" -l on-late -d 'What to do where that is already certain to be missed: run it all the same, or leave it out' -r -f -a "run\t''
refuse\t''"
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from add" -l name -d 'Name of the schedule [default: the task\'s]' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from add" -l notify -d 'Where to tell the end of it, with a POST: a URL that the host\'s policy allows' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from add" -l notify-secret -d 'Secret that what is told is signed with' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from add" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from add" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from add" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from add" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from add" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from add" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from add" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from ls" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from ls" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from ls" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from ls" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from ls" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from ls" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from ls" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from inspect" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from inspect" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from inspect" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from inspect" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from inspect" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from inspect" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from inspect" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from pause" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from pause" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from pause" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from pause" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from pause" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from pause" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from pause" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from resume" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from resume" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from resume" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from resume" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from resume" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from resume" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from resume" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from rm" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from rm" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from rm" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from rm" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from rm" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from rm" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from rm" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from help" -f -a "add" -d 'Add a schedule'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from help" -f -a "ls" -d 'List schedules'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from help" -f -a "inspect" -d 'Show one schedule: its next times, its last execution, what it left out'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from help" -f -a "pause" -d 'Run nothing until it is resumed'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from help" -f -a "resume" -d 'Go on, from now on: what would have been meanwhile is not missed'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from help" -f -a "rm" -d 'Remove a schedule; its executions stay'
complete -c torpor -n "__fish_torpor_using_subcommand schedule; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c torpor -n "__fish_torpor_using_subcommand policy; and not __fish_seen_subcommand_from explain help" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand policy; and not __fish_seen_subcommand_from explain help" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand policy; and not __fish_seen_subcommand_from explain help" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand policy; and not __fish_seen_subcommand_from explain help" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand policy; and not __fish_seen_subcommand_from explain help" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand policy; and not __fish_seen_subcommand_from explain help" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand policy; and not __fish_seen_subcommand_from explain help" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand policy; and not __fish_seen_subcommand_from explain help" -f -a "explain" -d 'Print the effective policy of a task, and where each line comes from'
complete -c torpor -n "__fish_torpor_using_subcommand policy; and not __fish_seen_subcommand_from explain help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c torpor -n "__fish_torpor_using_subcommand policy; and __fish_seen_subcommand_from explain" -l portion -d 'This portion only' -r
complete -c torpor -n "__fish_torpor_using_subcommand policy; and __fish_seen_subcommand_from explain" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand policy; and __fish_seen_subcommand_from explain" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand policy; and __fish_seen_subcommand_from explain" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand policy; and __fish_seen_subcommand_from explain" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand policy; and __fish_seen_subcommand_from explain" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand policy; and __fish_seen_subcommand_from explain" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand policy; and __fish_seen_subcommand_from explain" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand policy; and __fish_seen_subcommand_from help" -f -a "explain" -d 'Print the effective policy of a task, and where each line comes from'
complete -c torpor -n "__fish_torpor_using_subcommand policy; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c torpor -n "__fish_torpor_using_subcommand run" -s i -l input -d 'Input: JSON text, @FILE with JSON, or - for standard input' -r
complete -c torpor -n "__fish_torpor_using_subcommand run" -l need-by -d 'When its result is needed: in a time (seconds, or 500ms, 30s, 5m, 12h, 7d) or at a moment (2027-01-01T12:00:00Z). A busy host may put it off, and has it done by then' -r
complete -c torpor -n "__fish_torpor_using_subcommand run" -l on-late -d 'What to do where that is already certain to be missed: run it all the same, or refuse it' -r -f -a "run\t''
refuse\t''"
complete -c torpor -n "__fish_torpor_using_subcommand run" -l idempotency-key -d 'Run it once, however often this command is given with this key and the same input within 24 h: later ones get the first one\'s execution' -r
complete -c torpor -n "__fish_torpor_using_subcommand run" -l notify -d 'Where to tell the end of it, with a POST: a URL that the host\'s policy allows' -r
complete -c torpor -n "__fish_torpor_using_subcommand run" -l notify-secret -d 'Secret that what is told is signed with' -r
complete -c torpor -n "__fish_torpor_using_subcommand run" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand run" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand run" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand run" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand run" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand run" -l async -d 'Do not wait: print the execution\'s id'
complete -c torpor -n "__fish_torpor_using_subcommand run" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand run" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand ps" -l task -d 'Only executions of this task' -r
complete -c torpor -n "__fish_torpor_using_subcommand ps" -l state -d 'Only executions in this state' -r
complete -c torpor -n "__fish_torpor_using_subcommand ps" -l notify -d 'Only executions whose end is told so far; all but the first stand for ended ones' -r -f -a "waiting\t''
pending\t''
delivered\t''
failed\t''"
complete -c torpor -n "__fish_torpor_using_subcommand ps" -l limit -d 'At most this many, newest first' -r
complete -c torpor -n "__fish_torpor_using_subcommand ps" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand ps" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand ps" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand ps" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand ps" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand ps" -s a -l all -d 'Ended executions too'
complete -c torpor -n "__fish_torpor_using_subcommand ps" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand ps" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand top" -s e -l every -d 'Seconds between two pictures' -r
complete -c torpor -n "__fish_torpor_using_subcommand top" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand top" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand top" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand top" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand top" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand top" -s 1 -l once -d 'One picture, then end'
complete -c torpor -n "__fish_torpor_using_subcommand top" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand top" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand inspect" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand inspect" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand inspect" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand inspect" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand inspect" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand inspect" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand inspect" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand logs" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand logs" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand logs" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand logs" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand logs" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand logs" -s f -l follow -d 'Go on until the execution ends'
complete -c torpor -n "__fish_torpor_using_subcommand logs" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand logs" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand events" -l from -d 'Begin after this many entries of its timeline' -r
complete -c torpor -n "__fish_torpor_using_subcommand events" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand events" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand events" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand events" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand events" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand events" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand events" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand cancel" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand cancel" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand cancel" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand cancel" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand cancel" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand cancel" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand cancel" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand park" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand park" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand park" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand park" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand park" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand park" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand park" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand resume" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand resume" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand resume" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand resume" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand resume" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand resume" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand resume" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand signal" -s d -l data -d 'What the program gets: JSON text, @FILE with JSON, or - for standard input' -r
complete -c torpor -n "__fish_torpor_using_subcommand signal" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand signal" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand signal" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand signal" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand signal" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand signal" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand signal" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand export" -s o -l output -d 'The file; one that is there is not written over' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand export" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand export" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand export" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand export" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand export" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand export" -l without-template -d 'Leave out what its machine has in common with others of its task: much smaller, for hosts that have that already'
complete -c torpor -n "__fish_torpor_using_subcommand export" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand export" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand import" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand import" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand import" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand import" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand import" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand import" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand import" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand doctor" -l kernel -d 'Guest kernel, where no daemon can be asked' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand doctor" -l images -d 'Folder of the root file system images, where no daemon can be asked' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand doctor" -l state-dir -d 'State folder, where no daemon can be asked' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand doctor" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand doctor" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand doctor" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand doctor" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand doctor" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand doctor" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand version" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand version" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand version" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand version" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand version" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand version" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand version" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand completions" -l socket -d 'Socket of torpord' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand completions" -l host -d 'Another host\'s torpord, https://HOST:PORT, in place of the socket; needs a token' -r
complete -c torpor -n "__fish_torpor_using_subcommand completions" -l ca -d 'Certificates, PEM, one of which --host\'s must be of [default: those that this host trusts]' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand completions" -l token-file -d 'File with a token of torpord; TORPOR_TOKEN has the token itself and comes first' -r -F
complete -c torpor -n "__fish_torpor_using_subcommand completions" -l account -d 'Account to act in; for administrators [default: the caller\'s own]' -r
complete -c torpor -n "__fish_torpor_using_subcommand completions" -l json -d 'JSON instead of tables and text (the default where the output is not a terminal)'
complete -c torpor -n "__fish_torpor_using_subcommand completions" -s h -l help -d 'Print help'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "task" -d 'Push, list, inspect and remove tasks'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "secret" -d 'Set, list and remove secrets'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "account" -d 'Add, list and remove accounts, and say which users of this host belong to them; for administrators'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "token" -d 'Create, list and remove tokens of callers; for administrators'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "schedule" -d 'Run tasks at the times of cron expressions'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "policy" -d 'Show what a task may do, and where each rule comes from'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "run" -d 'Run a task on one input, wait, and print its result'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "ps" -d 'List executions that have not ended'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "top" -d 'Show who has what of the host and who waits, as it changes; once, as JSON, where the output is no terminal'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "inspect" -d 'Show one execution: state, figures, result or error'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "logs" -d 'Print what a program wrote to its standard output and error'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "events" -d 'Print what happens to an execution, as it happens, until it ends'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "cancel" -d 'Cancel an execution'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "park" -d 'Park an execution that waits, now, whatever its policy says'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "resume" -d 'Give a parked execution its machine back; it keeps it until its next wait'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "signal" -d 'Signal an event that an execution waits for'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "export" -d 'Move a parked execution into a file, for another host: it ends here'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "import" -d 'Take in an execution that another host has exported'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "doctor" -d 'Check this host: KVM, kernel, images, disk, limits, daemon'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "version" -d 'Print the versions of this program and of the daemon'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "completions" -d 'Print a completion script for a shell'
complete -c torpor -n "__fish_torpor_using_subcommand help; and not __fish_seen_subcommand_from task secret account token schedule policy run ps top inspect logs events cancel park resume signal export import doctor version completions help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from task" -f -a "push" -d 'Make a new version of a task from a folder with a torpor.toml'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from task" -f -a "ls" -d 'List tasks'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from task" -f -a "inspect" -d 'Show one task and its versions'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from task" -f -a "graph" -d 'Draw the portions of a task, who calls whom, and what each may use'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from task" -f -a "rm" -d 'Remove a task and all its versions'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from secret" -f -a "set" -d 'Set a secret to what is typed, or to what comes on standard input: text of at most 16 KiB, without the line end at its end'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from secret" -f -a "ls" -d 'List secrets: their names, and when they were set; nobody can read their values'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from secret" -f -a "rm" -d 'Remove a secret: tasks that declare it can\'t be run until it is set again'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from account" -f -a "add" -d 'Add an account, or change its weight'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from account" -f -a "ls" -d 'List accounts, and the user ids that belong to them'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from account" -f -a "rm" -d 'Remove an account that has no tasks, secrets, schedules or executions; its tokens and user ids go with it'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from account" -f -a "allow" -d 'Let a user of this host into an account'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from account" -f -a "deny" -d 'Take its account from a user of this host'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from token" -f -a "create" -d 'Create a token for the account that --account names, and print it: it is shown once'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from token" -f -a "ls" -d 'List tokens, without what they are'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from token" -f -a "rm" -d 'Remove a token: whoever brings it from now on is refused'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from schedule" -f -a "add" -d 'Add a schedule'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from schedule" -f -a "ls" -d 'List schedules'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from schedule" -f -a "inspect" -d 'Show one schedule: its next times, its last execution, what it left out'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from schedule" -f -a "pause" -d 'Run nothing until it is resumed'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from schedule" -f -a "resume" -d 'Go on, from now on: what would have been meanwhile is not missed'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from schedule" -f -a "rm" -d 'Remove a schedule; its executions stay'
complete -c torpor -n "__fish_torpor_using_subcommand help; and __fish_seen_subcommand_from policy" -f -a "explain" -d 'Print the effective policy of a task, and where each line comes from'
