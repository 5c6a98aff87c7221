# SPDX-License-Identifier: LGPL-2.1-or-later
# Completes virt-vol-repair in bash; the program itself knows the candidates.

_virt_vol_repair()
{
    local words cword cur IFS=$'\n'

    _get_comp_words_by_ref -n "\"'><=;|&(:" -w words -i cword -c cur
    COMPREPLY=($(compgen -W "$(virt-vol-repair --complete -- "${words[@]:1:cword}" 2>/dev/null)" -- "$cur"))
    __ltrim_colon_completions "$cur"
} && complete -o default -F _virt_vol_repair virt-vol-repair
