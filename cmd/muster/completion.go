// SPDX-FileCopyrightText: The Muster Authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// completionCmd is `muster completion`.
type completionCmd struct {
	Shell string `arg:"" help:"${enum}." enum:"bash,zsh,fish"`
}

// Help tells how to use the script.
func (completionCmd) Help() string {
	return "bash: source <(muster completion bash)\n" +
		"zsh:  muster completion zsh > ~/.zfunc/_muster   (a directory of $fpath)\n" +
		"fish: muster completion fish > ~/.config/fish/completions/muster.fish"
}

// Run writes the script.
func (c *completionCmd) Run(a *app, k *kong.Kong) error {
	words := completions(k.Model.Node)
	script := map[string]func([]completion) string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}[c.Shell]
	_, err := fmt.Fprint(a.out, script(words))
	return err
}

// completion is what can follow the words of a command.
type completion struct {
	path  string // "muster agent list"
	words []completionWord
}

type completionWord struct{ text, help string }

// completions walks the command line: each command with its sub-commands and
// flags, those of its parents included.
func completions(root *kong.Node) []completion {
	var all []completion
	var walk func(n *kong.Node, path string, flags []completionWord)
	walk = func(n *kong.Node, path string, flags []completionWord) {
		flags = slices.Clone(flags)
		for _, f := range n.Flags {
			if !f.Hidden {
				flags = append(flags, completionWord{"--" + f.Name, f.Help})
			}
		}
		c := completion{path: path}
		for _, child := range n.Children {
			if !child.Hidden {
				c.words = append(c.words, completionWord{child.Name, child.Help})
			}
		}
		c.words = append(c.words, flags...)
		for _, p := range n.Positional {
			for _, word := range p.EnumSlice() {
				if word != "" {
					c.words = append(c.words, completionWord{word, p.Help})
				}
			}
		}
		all = append(all, c)
		for _, child := range n.Children {
			if !child.Hidden {
				walk(child, path+" "+child.Name, flags)
			}
		}
	}
	walk(root, root.Name, nil)
	return all
}

func (c completion) texts() string {
	out := make([]string, len(c.words))
	for i, w := range c.words {
		out[i] = w.text
	}
	return strings.Join(out, " ")
}

// caseLines are the arms of a case on the command so far, for bash and zsh.
func caseLines(all []completion) string {
	var b strings.Builder
	for _, c := range all {
		fmt.Fprintf(&b, "    %q) words=%q ;;\n", c.path, c.texts())
	}
	return b.String()
}

func bashScript(all []completion) string {
	return `# Completion of muster for bash.
_muster_words() {
  local words=
  case "$1" in
` + caseLines(all) + `    *) return 1 ;;
  esac
  printf '%s' "$words"
}
_muster() {
  local path=muster words word i
  words=$(_muster_words "$path")
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=$(_muster_words "$path ${COMP_WORDS[i]}") && { path="$path ${COMP_WORDS[i]}"; words=$word; }
  done
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
  [ ${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _muster muster
`
}

func zshScript(all []completion) string {
	return `#compdef muster
# Completion of muster for zsh.
_muster_words() {
  local words=
  case "$1" in
` + caseLines(all) + `    *) return 1 ;;
  esac
  print -rn -- "$words"
}
_muster() {
  local path_=muster known next i
  known=$(_muster_words "$path_")
  for ((i = 2; i < CURRENT; i++)); do
    next=$(_muster_words "$path_ ${words[i]}") && { path_="$path_ ${words[i]}"; known=$next; }
  done
  compadd -- ${=known} || _files
}
compdef _muster muster
`
}

func fishScript(all []completion) string {
	var b strings.Builder
	b.WriteString(`# Completion of muster for fish.
function __muster_at
    set -l typed (string match -v -- '-*' (commandline -opc))
    test "$typed" = "$argv[1]"
    or begin
        test "$argv[2]" = leaf; and string match -q -- "$argv[1] *" "$typed"
    end
end
complete -c muster -f
`)
	for _, c := range all {
		kind := "leaf"
		if slices.ContainsFunc(c.words, func(w completionWord) bool { return !strings.HasPrefix(w.text, "-") }) {
			kind = "group"
		}
		for _, w := range c.words {
			at := fmt.Sprintf("-n '__muster_at %q %s' -d %s", c.path, kind, fishQuote(w.help))
			if name, isFlag := strings.CutPrefix(w.text, "--"); isFlag {
				fmt.Fprintf(&b, "complete -c muster -l %s %s\n", name, at)
			} else {
				fmt.Fprintf(&b, "complete -c muster -a %s %s\n", w.text, at)
			}
		}
	}
	return b.String()
}

func fishQuote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}
