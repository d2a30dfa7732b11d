"""`tunetrail completion`: print the script by which a shell completes commands, keys and values."""

import argparse

from tunetrail.cli.command_parser import CommandParser
from tunetrail.cli.output import add_output_options, show

_SCRIPTS = {
    "bash": """\
# Completion of tunetrail for bash. Add to ~/.bashrc:  eval "$(tunetrail completion bash)"
_tunetrail() {
    local IFS=$'\\n' line="${COMP_LINE:0:COMP_POINT}"
    COMPREPLY=($("${COMP_WORDS[0]}" complete bash "$line" "$COMP_WORDBREAKS" 2>/dev/null))
    # A value or a further name follows directly.
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=.] ]]; then compopt -o nospace; fi
}
# Files, where nothing else is known.
complete -o default -F _tunetrail tunetrail
""",
    "zsh": """\
#compdef tunetrail
# Completion of tunetrail for zsh. Add to ~/.zshrc:
#   autoload -Uz compinit && compinit && eval "$(tunetrail completion zsh)"
_tunetrail() {
    local -a lines closed closed_text open open_text
    local line word text
    lines=("${(@f)$("${words[1]}" complete zsh "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    for line in $lines; do
        word=${line%%$'\\t'*}
        text=$word
        [[ $line == *$'\\t'* ]] && text="$word  -- ${line#*$'\\t'}"
        if [[ $word == *[=.] ]]; then
            open+=("$word") open_text+=("$text")
        else
            closed+=("$word") closed_text+=("$text")
        fi
    done
    # Files, where nothing else is known.
    if (( ! $#open && ! $#closed )); then _files; return; fi
    # A value or a further name follows an open word directly.
    (( $#open )) && compadd -l -S '' -d open_text -a open
    (( $#closed )) && compadd -l -d closed_text -a closed
    return 0
}
if (( $+functions[compdef] )); then compdef _tunetrail tunetrail; fi
""",
    "fish": """\
# Completion of tunetrail for fish. Save as ~/.config/fish/completions/tunetrail.fish
function __tunetrail_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l lines ($words[1] complete fish $words[2..-1] "$current" 2>/dev/null)
    if test (count $lines) -gt 0
        printf '%s\\n' $lines
    else
        # Files, where nothing else is known.
        __fish_complete_path "$current"
    end
end
complete -c tunetrail -f -a '(__tunetrail_complete)'
""",
}

_DESCRIPTION = """\
Print the script by which a shell completes commands, groups, keys, choices, sessions and runs:

  bash   eval "$(tunetrail completion bash)"     in ~/.bashrc
  zsh    eval "$(tunetrail completion zsh)"      in ~/.zshrc, after compinit
  fish   tunetrail completion fish > ~/.config/fish/completions/tunetrail.fish"""


def completion(arguments: list[str]) -> int:
    """Print the script of a shell."""
    parser = CommandParser(
        prog="tunetrail completion",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=tuple(_SCRIPTS), help="the shell")
    add_output_options(parser)

    shell = parser.parse_args(arguments).shell
    script = _SCRIPTS[shell]
    show(lambda: {"shell": shell, "script": script}, lambda: print(script, end=""))
    return 0
