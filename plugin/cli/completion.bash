# SPDX-License-Identifier: LGPL-2.1-or-later
# Completes vol-repair in bash: options out of its own --help, values of some, and files.

_vol_repair()
{
    local cur=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} values=

    # Readline breaks words at the sign.
    [[ $cur == = ]] && cur=
    [[ $before == = ]] && before=${COMP_WORDS[COMP_CWORD - 2]}
    case $before in
    --mode) values='check leaks all undo' ;;
    --accel) values='auto kvm process' ;;
    -f) values=qcow2 ;;
    --output) values='human json' ;;
    -r) values='leaks all' ;;
    *) [[ $cur == -* ]] && values=$(vol-repair --help 2>/dev/null | grep -oE -e '--[a-z][a-z-]+' | sort -u) ;;
    esac
    COMPREPLY=()
    [[ -z $values ]] || mapfile -t COMPREPLY < <(compgen -W "$values" -- "$cur")
} && complete -o default -F _vol_repair vol-repair
