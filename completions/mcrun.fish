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
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "create" -d 'Create a container with docker, podman or nerdctl; starting it attaches it'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "start" -d 'Start containers that docker, podman or nerdctl has created or stopped'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "attach" -d 'Attach a running container to a LAN'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "detach" -d 'Remove attached interfaces from a running container'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "ps" -d 'List attached containers'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "groups" -d 'List the multicast groups that containers have joined'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "top" -d 'Show all groups and what arrives for them, live'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "watch" -d 'Show one stream of a container as it arrives'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "parents" -d 'List the interfaces of the host that can be parents'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "inspect" -d 'Show everything known about a container'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "host" -d 'List what mcrun has changed on this host, and whose it is'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "doctor" -d 'Find out what is wrong, and what to do about it'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "events" -d 'Show what has happened to containers'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "metrics" -d 'Tell Prometheus of containers, groups and queriers'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "exec" -d 'Run a command in a container that mcrun run started'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "logs" -d 'Show the output of a detached container that mcrun run started'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "stop" -d 'Stop containers that mcrun run started: SIGTERM, then SIGKILL'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "kill" -d 'Send a signal to containers that mcrun run started'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "rm" -d 'Remove stopped containers that mcrun run started'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "probe" -d 'Send or receive a measured multicast stream'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "demo" -d 'Show what mcrun does, on a simulated LAN that leaves the host untouched'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "setup" -d 'Register mcrun with a container engine'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "reload" -d 'Apply a changed mcrun.toml, or an upgrade, to running containers'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "network" -d 'Make, show, check and remove named networks'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "shim" -d 'Give the host a leg of its own on a parent, by which it and the containers reach each other'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "config" -d 'Check mcrun.toml, or show what is in force of it'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "keep" -d 'Keep memberships and rules of proxies that die, and replace those proxies'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "serve" -d 'Be a network driver of an engine'
complete -c mcrun -n "__fish_mcrun_needs_command" -f -a "gc" -d 'Remove what killed containers and proxies left behind'
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l rootfs -d 'Root filesystem of the container: a directory, which is used in place' -r -F
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l bundle -d 'OCI bundle: a directory with a config.json, which is not changed' -r -F
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l mcast -d 'Attach to a LAN: KEY=VALUE[,KEY=VALUE...] (repeatable)' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l engine -d 'Engine or, with --rootfs and --bundle, OCI runtime, by name or path' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l name -d 'Name of the container' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -s e -l env -d 'Set an environment variable: NAME=VALUE, or NAME for the value that it has here (repeatable)' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l env-file -d 'Set environment variables from a file, one on each line (repeatable)' -r -F
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -s v -l volume -d 'Mount a file or directory of the host: SOURCE:DESTINATION[:OPTIONS] (repeatable)' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -s w -l workdir -d 'Directory in the container in which the command starts' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -s u -l user -d 'User of the command: USER[:GROUP], as names of the container or numbers' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l hostname -d 'Host name of the container' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l cap-add -d 'Add a capability, or ALL (repeatable)' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l cap-drop -d 'Drop a capability, or ALL (repeatable)' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -s m -l memory -d 'Memory limit, in bytes or with a suffix k, m or g' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l cpus -d 'CPU limit, as a number of CPUs such as 1.5' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l annotation -d 'Add an annotation (repeatable)' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -s d -l detach -d 'Run in the background and print the container\'s id'
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -s i -l interactive -d 'Pass standard input to the container'
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -s t -l tty -d 'Give the container a terminal'
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l rm -d 'Remove the container when it ends; without -d this is always done'
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l privileged -d 'Give all capabilities and devices; no seccomp filter, no masked paths'
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -l read-only -d 'Make the root filesystem read-only'
complete -c mcrun -n "__fish_mcrun_using_subcommand run" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand create" -l engine -d 'Engine, by name or path; the default is MCRUN_ENGINE, else the first usable one of docker, podman and nerdctl' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand create" -l mcast -d 'Attach to a LAN: KEY=VALUE[,KEY=VALUE...] (repeatable)' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand create" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand start" -l engine -d 'Engine, by name or path; the default is MCRUN_ENGINE, else the first usable one of docker, podman and nerdctl' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand start" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand attach" -l engine -d 'Look among the containers of one engine only: docker, podman, nerdctl, kubernetes, containerd, lxc, incus, nspawn, runc, crun or youki. Of several containers that the name fits, MCRUN_ENGINE decides' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand attach" -l mcast -d 'What to attach it to: KEY=VALUE[,KEY=VALUE...] (repeatable)' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand attach" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand detach" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand ps" -s a -l all -d 'Also list containers of mcrun run that are not attached or have stopped'
complete -c mcrun -n "__fish_mcrun_using_subcommand ps" -l json -d 'Print an array of objects instead of a table'
complete -c mcrun -n "__fish_mcrun_using_subcommand ps" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand groups" -l json -d 'Print an array of objects instead of a table'
complete -c mcrun -n "__fish_mcrun_using_subcommand groups" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand top" -s n -l interval -d 'Seconds between two looks at the containers, 0.1 to 3600' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand top" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand watch" -s i -l interface -d 'Interface in the container, where it has joined the group at several' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand watch" -l interval -d 'Time between two measurements' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand watch" -s c -l count -d 'End after so many measurements' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand watch" -l clock-rate -d 'Clock of the RTP timestamps in Hz, for the jitter; without it by payload type (RFC 3551), 90000 for the dynamic ones' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand watch" -l json -d 'Print a JSON object per measurement'
complete -c mcrun -n "__fish_mcrun_using_subcommand watch" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand parents" -l json -d 'Print an array of objects instead of a table'
complete -c mcrun -n "__fish_mcrun_using_subcommand parents" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand inspect" -l json -d 'Print an object instead of text'
complete -c mcrun -n "__fish_mcrun_using_subcommand inspect" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand host" -l json -d 'Print an array of objects instead of a table'
complete -c mcrun -n "__fish_mcrun_using_subcommand host" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand doctor" -l parent -d 'Look at this interface of the host too; may be repeated' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand doctor" -l send-from -d 'Send from this interface; without it, one on the same LAN is looked for' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand doctor" -l send -d 'Send a test stream through the switch to each --parent'
complete -c mcrun -n "__fish_mcrun_using_subcommand doctor" -l json -d 'Print an array of objects instead of lines'
complete -c mcrun -n "__fish_mcrun_using_subcommand doctor" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand events" -l since -d 'Only events since then: a time such as 2026-01-31T03:00:00Z, or so long ago, such as 10m' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand events" -l until -d 'Only events until then; not with --follow' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand events" -s f -l follow -d 'Show events as they happen'
complete -c mcrun -n "__fish_mcrun_using_subcommand events" -l json -d 'Print an object of JSON on each line'
complete -c mcrun -n "__fish_mcrun_using_subcommand events" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand metrics" -s o -l output -d 'Write them to this file' -r -F
complete -c mcrun -n "__fish_mcrun_using_subcommand metrics" -l listen -d 'Tell them by HTTP: at 127.0.0.1 for a port alone; as ADDRESS:PORT or [IPv6]:PORT elsewhere. Whoever reaches the address can read them. Port 0 is a free one' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand metrics" -l max-groups -d 'Groups that have series. If there are more, those of the last containers by name are left out' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand metrics" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand exec" -s e -l env -d 'Set an environment variable: NAME=VALUE, or NAME for the value that it has here (repeatable)' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand exec" -l env-file -d 'Set environment variables from a file, one on each line (repeatable)' -r -F
complete -c mcrun -n "__fish_mcrun_using_subcommand exec" -s w -l workdir -d 'Directory in the container in which the command starts' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand exec" -s u -l user -d 'User of the command: USER[:GROUP], as names of the container or numbers' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand exec" -s d -l detach -d 'Do not wait for the command'
complete -c mcrun -n "__fish_mcrun_using_subcommand exec" -s i -l interactive -d 'Pass standard input to the command'
complete -c mcrun -n "__fish_mcrun_using_subcommand exec" -s t -l tty -d 'Give the command a terminal'
complete -c mcrun -n "__fish_mcrun_using_subcommand exec" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand logs" -s n -l tail -d 'Show only the last lines: so many, or all' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand logs" -s f -l follow -d 'Go on until the container ends'
complete -c mcrun -n "__fish_mcrun_using_subcommand logs" -s t -l timestamps -d 'Show when each line was written, in UTC'
complete -c mcrun -n "__fish_mcrun_using_subcommand logs" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand stop" -s t -l time -d 'Seconds from SIGTERM to SIGKILL' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand stop" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand kill" -s s -l signal -d 'Signal, by name or number' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand kill" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand rm" -s f -l force -d 'Kill and remove running containers too'
complete -c mcrun -n "__fish_mcrun_using_subcommand rm" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and not __fish_seen_subcommand_from send recv" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and not __fish_seen_subcommand_from send recv" -f -a "send" -d 'Send RTP packets at a constant rate'
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and not __fish_seen_subcommand_from send recv" -f -a "recv" -d 'Join groups and measure what arrives'
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from send" -s i -l interface -d 'Interface to use; without it the kernel\'s route to the group decides. An IPv6 group of the link, ff02::, needs one, here or as its zone' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from send" -s d -l duration -d 'End after this long, such as 500ms, 10s or 2m; seconds where no unit is named' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from send" -s c -l count -d 'End after so many packets of each group' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from send" -l source -d 'Address to send from; the interface\'s where it is not named' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from send" -s r -l rate -d 'Packets per second to each group' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from send" -s s -l size -d 'RTP payload of each packet in bytes; the default is seven packets of MPEG-TS' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from send" -l ttl -d 'Time to live, of IPv6 the hop limit: 1 stays on this LAN' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from send" -l json -d 'Print the result as one JSON object'
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from send" -l loop -d 'Let sockets of this host, in this network namespace, hear it too'
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from send" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -s i -l interface -d 'Interface to use; without it the kernel\'s route to the group decides. An IPv6 group of the link, ff02::, needs one, here or as its zone' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -s d -l duration -d 'End after this long, such as 500ms, 10s or 2m; seconds where no unit is named' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -s c -l count -d 'End after so many packets of each group' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -l container -d 'Join and receive in the network namespace of a running container, which need not have a program for it; by name, id, beginning of an id, or process id. The container\'s rules and limits apply to the join' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -l source -d 'Join from this source only (SSM); may be repeated' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -l timeout -d 'End when no packet of any group came for this long' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -l interval -d 'Print what came each time this is over; with --json as a JSON object per line' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -l max-gap -d 'Fail if a group has a longer gap' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -l max-loss -d 'Fail if a group loses more: a number of packets, or a share such as 0.1%' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -l clock-rate -d 'Clock of the RTP timestamps in Hz, for the jitter; without it by payload type (RFC 3551), 90000 for the dynamic ones' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -l json -d 'Print the result as one JSON object'
complete -c mcrun -n "__fish_mcrun_using_subcommand probe; and __fish_seen_subcommand_from recv" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand demo" -l engine -d 'OCI runtime for the containers, such as runc or crun' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand demo" -l ipv6 -d 'Show the same with IPv6 and MLD'
complete -c mcrun -n "__fish_mcrun_using_subcommand demo" -l json -d 'Print only the result, as one JSON object'
complete -c mcrun -n "__fish_mcrun_using_subcommand demo" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand setup" -l root -d 'The directory that stands for /' -r -F
complete -c mcrun -n "__fish_mcrun_using_subcommand setup" -l print -d 'Print the files as they would become, and write nothing'
complete -c mcrun -n "__fish_mcrun_using_subcommand setup" -l remove -d 'Undo an earlier setup'
complete -c mcrun -n "__fish_mcrun_using_subcommand setup" -l reload -d 'Make the running dockerd reload its configuration'
complete -c mcrun -n "__fish_mcrun_using_subcommand setup" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand reload" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and not __fish_seen_subcommand_from create ls inspect leases rm check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and not __fish_seen_subcommand_from create ls inspect leases rm check" -f -a "create" -d 'Make a network: write its file'
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and not __fish_seen_subcommand_from create ls inspect leases rm check" -f -a "ls" -d 'List networks'
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and not __fish_seen_subcommand_from create ls inspect leases rm check" -f -a "inspect" -d 'Show a network and the containers on it'
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and not __fish_seen_subcommand_from create ls inspect leases rm check" -f -a "leases" -d 'Show the addresses of networks that containers have, and those of pools that they had'
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and not __fish_seen_subcommand_from create ls inspect leases rm check" -f -a "rm" -d 'Remove networks: remove their files'
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and not __fish_seen_subcommand_from create ls inspect leases rm check" -f -a "check" -d 'Check the files of networks'
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and __fish_seen_subcommand_from create" -l mcast -d 'The attachment keys of the network: KEY=VALUE[,KEY=VALUE...], with parent=' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and __fish_seen_subcommand_from create" -l subnet -d 'The subnet, as in 192.0.2.0/24; one of each address family' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and __fish_seen_subcommand_from create" -l range -d 'Addresses of the subnet that ip=pool gives; the default is all of them' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and __fish_seen_subcommand_from create" -l exclude -d 'Addresses that no container can have' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and __fish_seen_subcommand_from create" -l gateway -d 'The gateway; a container with an address of the subnet gets a default route through it' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and __fish_seen_subcommand_from create" -l dns -d 'A name server, for engines that ask a plugin for it: CNI\'s, and podman\'s networks' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and __fish_seen_subcommand_from create" -l description -d 'What people are told about the network' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and __fish_seen_subcommand_from create" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and __fish_seen_subcommand_from ls" -l json -d 'Print an array of objects instead of a table'
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and __fish_seen_subcommand_from ls" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and __fish_seen_subcommand_from inspect" -l json -d 'Print an object instead of text'
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and __fish_seen_subcommand_from inspect" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and __fish_seen_subcommand_from leases" -l json -d 'Print an array of objects instead of a table'
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and __fish_seen_subcommand_from leases" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and __fish_seen_subcommand_from rm" -s f -l force -d 'Also remove a network that running containers are on'
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and __fish_seen_subcommand_from rm" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand network; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand shim; and not __fish_seen_subcommand_from add rm ls" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand shim; and not __fish_seen_subcommand_from add rm ls" -f -a "add" -d 'Make the host\'s leg on a parent'
complete -c mcrun -n "__fish_mcrun_using_subcommand shim; and not __fish_seen_subcommand_from add rm ls" -f -a "rm" -d 'Remove the host\'s leg on parents'
complete -c mcrun -n "__fish_mcrun_using_subcommand shim; and not __fish_seen_subcommand_from add rm ls" -f -a "ls" -d 'List the host\'s legs on parents'
complete -c mcrun -n "__fish_mcrun_using_subcommand shim; and __fish_seen_subcommand_from add" -l ip -d 'An address of the host\'s own for it, which nobody else has: one of IPv4, or one of each family. Without it the host\'s address on the parent is the source of what it sends' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand shim; and __fish_seen_subcommand_from add" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand shim; and __fish_seen_subcommand_from rm" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand shim; and __fish_seen_subcommand_from ls" -l json -d 'Print an array of objects instead of a table'
complete -c mcrun -n "__fish_mcrun_using_subcommand shim; and __fish_seen_subcommand_from ls" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand config; and not __fish_seen_subcommand_from check show" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand config; and not __fish_seen_subcommand_from check show" -f -a "check" -d 'Check mcrun.toml'
complete -c mcrun -n "__fish_mcrun_using_subcommand config; and not __fish_seen_subcommand_from check show" -f -a "show" -d 'Show what is in force'
complete -c mcrun -n "__fish_mcrun_using_subcommand config; and __fish_seen_subcommand_from check" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand config; and __fish_seen_subcommand_from show" -l json -d 'Print JSON'
complete -c mcrun -n "__fish_mcrun_using_subcommand config; and __fish_seen_subcommand_from show" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand keep" -l watchdog -d 'Time between two questions to a proxy; one that leaves two unanswered is replaced' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand keep" -l stable-after -d 'A proxy that dies sooner after its start is in a crash loop: its successor waits, 30 s at most' -r
complete -c mcrun -n "__fish_mcrun_using_subcommand keep" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand serve; and not __fish_seen_subcommand_from docker" -s h -l help -d 'Print help'
complete -c mcrun -n "__fish_mcrun_using_subcommand serve; and not __fish_seen_subcommand_from docker" -f -a "docker" -d 'Be docker\'s network driver mcrun'
complete -c mcrun -n "__fish_mcrun_using_subcommand serve; and __fish_seen_subcommand_from docker" -l socket -d 'Listen at this path. The name of the file without its ending is the driver\'s name. A service manager that passes a socket comes first' -r -F
complete -c mcrun -n "__fish_mcrun_using_subcommand serve; and __fish_seen_subcommand_from docker" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c mcrun -n "__fish_mcrun_using_subcommand gc" -s h -l help -d 'Print help'
