# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_mcrun_global_optspecs
    string join \n h/help V/version
end

function __fish_mcrun_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_mcrun_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_mcrun_using_subcommand
    set -l cmd (__fish_mcrun_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c mcrun -n "__fish_mcrun_needs_command" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_needs_command" -s V -l version -d 'Print version'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "run" -d 'Run a container attached to a LAN'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "exec" -d 'Run a command in a running container'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "stop" -d 'Stop containers: their stop signal, then SIGKILL'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "kill" -d 'Send a signal to containers'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "rm" -d 'Remove stopped containers'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "ps" -d 'List attached containers'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "groups" -d 'List group memberships'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "inspect" -d 'Show everything known about a container'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "probe" -d 'Send or receive a measured multicast stream'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "demo" -d 'Show it live: a media facility in network namespaces of its own'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "gc" -d 'Remove what dead containers left behind'
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand exec" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand stop" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand kill" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand rm" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand ps" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand groups" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand inspect" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand probe" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand demo" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand gc" -s h -l help -d 'Print help'
