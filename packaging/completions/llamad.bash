# bash completion for llamad

_llamad_servers() {
    # Only names; a daemon that is not there gives none.
    llamad status --json 2>/dev/null | tr '{},' '\n' | sed -n 's/^ *"name": *"\([^"]*\)".*/\1/p'
}

_llamad() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command='' word
    COMPREPLY=()
    case $previous in
        --config | --socket)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$current")
            return
            ;;
        -n | --lines) return ;;
    esac
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        case $word in
            run | check | plan | reload | status | start | stop | restart | logs | models | devices | schema | upgrade | reap | demo)
                command=$word
                break
                ;;
        esac
    done
    local words
    case $command in
        '') words='run check plan reload status start stop restart logs models devices schema upgrade reap demo --help --version' ;;
        run) words='--config --help' ;;
        check) words='--config --json --socket --help' ;;
        reload) words='--wait --socket --help' ;;
        status) words="--json --watch --socket --help $(_llamad_servers)" ;;
        start | stop | restart) words="--wait --socket --help $(_llamad_servers)" ;;
        logs) words="-f --follow -n --lines --socket --help $(_llamad_servers)" ;;
        models | devices) words='--json --socket --help' ;;
        plan | upgrade) words='--socket --help' ;;
        demo) words='--once --help' ;;
        *) words='--help' ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
    if [[ ($command == check || $command == plan) && $current != -* ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$current")
    fi
}

complete -F _llamad llamad
