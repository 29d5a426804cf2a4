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
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "create" -d 'Create a container of docker, podman or nerdctl, attached when it is started'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "start" -d 'Start containers that docker, podman or nerdctl have created or stopped'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "attach" -d 'Attach a running container to a LAN'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "detach" -d 'Take interfaces of a running container away'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "exec" -d 'Run a command in a running container'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "stop" -d 'Stop containers: their stop signal, then SIGKILL'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "kill" -d 'Send a signal to containers'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "rm" -d 'Remove stopped containers'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "ps" -d 'List attached containers'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "groups" -d 'List group memberships'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "inspect" -d 'Show everything known about a container'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "probe" -d 'Send or receive a measured multicast stream'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "demo" -d 'Show it live: a media facility in network namespaces of its own'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "reload" -d 'Bring the administrator\'s rules into force for running containers'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "setup" -d 'Tell a container engine of mcrun'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "gc" -d 'Remove what dead containers left behind'
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l rootfs -d 'Root filesystem of the container: a directory, used in place' -r -F
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l bundle -d 'OCI bundle: a directory with a config.json, which is not changed' -r -F
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l mcast -d 'Attach to a LAN: KEY=VALUE[,KEY=VALUE...] (repeatable)' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l engine -d 'Engine or, with --rootfs and --bundle, OCI runtime, by name or path' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l name -d 'Name of the container' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -s e -l env -d 'Set a variable, NAME=VALUE, or pass one on, NAME (repeatable)' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l env-file -d 'Set the variables of a file, one to a line (repeatable)' -r -F
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -s v -l volume -d 'Mount a file or directory of the host: SOURCE:DESTINATION[:OPTIONS] (repeatable)' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -s w -l workdir -d 'Directory in the container in which the command starts' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -s u -l user -d 'User of the command: USER[:GROUP], names or numbers of the container' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l hostname -d 'Host name of the container' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l cap-add -d 'Give a capability, or ALL (repeatable)' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l cap-drop -d 'Take a capability away, or ALL (repeatable)' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -s m -l memory -d 'Limit of memory, in bytes or with a suffix k, m or g' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l cpus -d 'Limit of CPU time, in CPUs, such as 1.5' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l annotation -d 'Add an annotation (repeatable)' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -s d -l detach -d 'Run in the background and print the container\'s id'
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -s i -l interactive -d 'Pass stdin on to the container'
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -s t -l tty -d 'Give the container a terminal'
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l rm -d 'Remove the container when it ends (always so without -d)'
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l privileged -d 'Give all capabilities and devices, and filter and mask nothing'
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l read-only -d 'Make the root filesystem read-only'
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand create" -l engine -d 'Engine, by name or path; by default the first that can be used of docker, podman and nerdctl' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand create" -l mcast -d 'Attach to a LAN: KEY=VALUE[,KEY=VALUE...] (repeatable)' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand create" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand start" -l engine -d 'Engine, by name or path; by default the first that can be used of docker, podman and nerdctl' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand start" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand attach" -l mcast -d 'What to attach it to: KEY=VALUE[,KEY=VALUE...] (repeatable)' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand attach" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand detach" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand exec" -s e -l env -d 'Set a variable, NAME=VALUE, or pass one on, NAME (repeatable)' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand exec" -l env-file -d 'Set the variables of a file, one to a line (repeatable)' -r -F
complete -c mcrun -n "__fish_mcrun_using_subcommand exec" -s w -l workdir -d 'Directory in the container in which the command starts' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand exec" -s u -l user -d 'User of the command: USER[:GROUP], names or numbers of the container' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand exec" -s d -l detach -d 'Do not wait for the command'
complete -c mcrun -n "__fish_mcrun_using_subcommand exec" -s i -l interactive -d 'Pass stdin on to the command'
complete -c mcrun -n "__fish_mcrun_using_subcommand exec" -s t -l tty -d 'Give the command a terminal'
complete -c mcrun -n "__fish_mcrun_using_subcommand exec" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand stop" -s t -l time -d 'Seconds from SIGTERM to SIGKILL' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand stop" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand kill" -s s -l signal -d 'Signal, by name or number' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand kill" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand rm" -s f -l force -d 'Remove running containers too, killing them'
complete -c mcrun -n "__fish_mcrun_using_subcommand rm" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand ps" -l json -d 'Print an array of objects instead of a table'
complete -c mcrun -n "__fish_mcrun_using_subcommand ps" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand groups" -l json -d 'Print an array of objects instead of a table'
complete -c mcrun -n "__fish_mcrun_using_subcommand groups" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand inspect" -l json -d 'Print an object instead of text'
complete -c mcrun -n "__fish_mcrun_using_subcommand inspect" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and not __fish_seen_subcommand_from send recv" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and not __fish_seen_subcommand_from send recv" -f -a "send" -d 'Send RTP packets at a constant rate'
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and not __fish_seen_subcommand_from send recv" -f -a "recv" -d 'Join groups and measure what arrives'
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from send" -s i -l interface -d 'Interface to use; without it the kernel\'s route to the group decides' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from send" -s d -l duration -d 'End after this long, such as 500ms, 10s or 2m; seconds where no unit is named' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from send" -s c -l count -d 'End after so many packets of each group' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from send" -l source -d 'Address to send from; the interface\'s where it is not named' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from send" -s r -l rate -d 'Packets per second to each group' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from send" -s s -l size -d 'RTP payload of each packet in bytes; the default is seven packets of MPEG-TS' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from send" -l ttl -d 'Time to live: 1 stays on this LAN' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from send" -l json -d 'Print the result as one JSON object'
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from send" -l loop -d 'Let sockets of this host, in this network namespace, hear it too'
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from send" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -s i -l interface -d 'Interface to use; without it the kernel\'s route to the group decides' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -s d -l duration -d 'End after this long, such as 500ms, 10s or 2m; seconds where no unit is named' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -s c -l count -d 'End after so many packets of each group' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -l source -d 'Join from this source only (SSM); may be repeated' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -l timeout -d 'End when no packet of any group came for this long' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -l interval -d 'Print what came each time this is over; with --json as a JSON object per line' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -l max-gap -d 'Fail if a group has a longer gap' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -l max-loss -d 'Fail if a group loses more: a number of packets, or a share such as 0.1%' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -l clock-rate -d 'Clock of the RTP timestamps in Hz, for the jitter; without it by payload type (RFC 3551), 90000 for the dynamic ones' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -l json -d 'Print the result as one JSON object'
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand demo" -l engine -d 'OCI runtime for the containers, such as runc or crun' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand demo" -l json -d 'Print the result as one JSON object, and nothing as it goes'
complete -c mcrun -n "__fish_mcrun_using_subcommand demo" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand reload" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand setup" -l root -d 'The directory that stands for /' -r -F
complete -c mcrun -n "__fish_mcrun_using_subcommand setup" -l print -d 'Show the files as they would be; write nothing'
complete -c mcrun -n "__fish_mcrun_using_subcommand setup" -l remove -d 'Take back what a setup has written'
complete -c mcrun -n "__fish_mcrun_using_subcommand setup" -l reload -d 'Have the running dockerd read its configuration anew'
complete -c mcrun -n "__fish_mcrun_using_subcommand setup" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand gc" -s h -l help -d 'Print help'
