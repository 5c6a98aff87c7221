# SPDX-License-Identifier: LGPL-2.1-or-later
# Completes virt-vol-repair in bash; the program itself knows the candidates.

# Names of pools and volumes are somebody else's choice: they are never expanded, and are quoted before they are offered.
_virt_vol_repair()
{
    local words cword cur typed candidate
    local -a line

    _get_comp_words_by_ref -n "\"'><=;|&(:" -w words -i cword -c cur
    typed=${cur//\\/}
    [[ $cur != [\'\"]* ]] || typed=${cur:1}
    line=("${words[@]:1:cword}")
    line[cword - 1]=$typed
    COMPREPLY=()
    while IFS= read -r candidate; do
        [[ $candidate == "$typed"* ]] || continue
        case $cur in
        [\'\"]*) [[ $candidate == *[\\\'\"\`\$\!]* ]] || COMPREPLY+=("$candidate") ;;
        --*=*) COMPREPLY+=("${candidate%%=*}=$(printf %q "${candidate#*=}")") ;;
        *) COMPREPLY+=("$(printf %q "$candidate")") ;;
        esac
    done < <(virt-vol-repair --complete -- "${line[@]}" 2>/dev/null)
    # What stands before the sign is typed already, and readline keeps it.
    [[ $cur != --*=* || $COMP_WORDBREAKS != *=* ]] || COMPREPLY=("${COMPREPLY[@]#*=}")
    __ltrim_colon_completions "$cur"
} && complete -o default -F _virt_vol_repair virt-vol-repair
