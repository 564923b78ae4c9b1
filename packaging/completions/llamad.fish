# fish completion for llamad

function __llamad_servers
    llamad status --json 2>/dev/null | tr '{},' '\n' | string replace -rf '^ *"name": *"([^"]*)".*' '$1'
end

set -l commands run check plan reload status start stop restart logs models devices schema upgrade reap demo
complete -c llamad -f
complete -c llamad -n "not __fish_seen_subcommand_from $commands" -l version -d 'Version'
complete -c llamad -s h -l help -d 'Help'
complete -c llamad -n "not __fish_seen_subcommand_from $commands" -a run -d 'The daemon, in the foreground'
complete -c llamad -n "not __fish_seen_subcommand_from $commands" -a check -d 'Every problem of the configuration'
complete -c llamad -n "not __fish_seen_subcommand_from $commands" -a plan -d 'What a reload would do now'
complete -c llamad -n "not __fish_seen_subcommand_from $commands" -a reload -d 'Apply the configuration'
complete -c llamad -n "not __fish_seen_subcommand_from $commands" -a status -d 'State of the servers'
complete -c llamad -n "not __fish_seen_subcommand_from $commands" -a start -d 'Start servers'
complete -c llamad -n "not __fish_seen_subcommand_from $commands" -a stop -d 'Stop servers'
complete -c llamad -n "not __fish_seen_subcommand_from $commands" -a restart -d 'Restart servers'
complete -c llamad -n "not __fish_seen_subcommand_from $commands" -a logs -d 'A server\'s own output'
complete -c llamad -n "not __fish_seen_subcommand_from $commands" -a models -d 'GGUF files and what serves them'
complete -c llamad -n "not __fish_seen_subcommand_from $commands" -a devices -d 'GPUs'
complete -c llamad -n "not __fish_seen_subcommand_from $commands" -a schema -d 'JSON Schema of the configuration'
complete -c llamad -n "not __fish_seen_subcommand_from $commands" -a upgrade -d 'Go on in the installed version, servers running'
complete -c llamad -n "not __fish_seen_subcommand_from $commands" -a reap -d 'End what is left of a llamad that does not come back'
complete -c llamad -n "not __fish_seen_subcommand_from $commands" -a demo -d 'A small real model, without configuration'

complete -c llamad -n '__fish_seen_subcommand_from run check' -l config -r -F -d 'The configuration'
complete -c llamad -n '__fish_seen_subcommand_from check plan reload status start stop restart logs models devices upgrade' -l socket -r -F -d 'The control socket'
complete -c llamad -n '__fish_seen_subcommand_from reload start stop restart' -l wait -d 'Until every touched server has settled'
complete -c llamad -n '__fish_seen_subcommand_from check status models devices' -l json -d 'For scripts'
complete -c llamad -n '__fish_seen_subcommand_from status' -l watch -d 'Again and again'
complete -c llamad -n '__fish_seen_subcommand_from logs' -s f -l follow -d 'Every new line too'
complete -c llamad -n '__fish_seen_subcommand_from logs' -s n -l lines -x -d 'The newest only'
complete -c llamad -n '__fish_seen_subcommand_from check plan' -F
complete -c llamad -n '__fish_seen_subcommand_from demo' -l once -d 'Ask one question and end'
complete -c llamad -n '__fish_seen_subcommand_from status start stop restart logs' -a '(__llamad_servers)' -d Server
