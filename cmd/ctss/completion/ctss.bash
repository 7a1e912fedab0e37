# bash completion for ctss. Load it with: source <(ctss completion bash)
_ctss() {
	local word=${COMP_WORDS[COMP_CWORD]} last=${COMP_WORDS[COMP_CWORD-1]} before=
	[ "$COMP_CWORD" -ge 2 ] && before=${COMP_WORDS[COMP_CWORD-2]}
	# bash takes a colon for the end of a word.
	[ "$last" = : ] && { word=:$word; last=$before; before=${COMP_WORDS[COMP_CWORD-3]}; }
	[ "$word" = : ] && { last=$before; [ "$COMP_CWORD" -ge 3 ] && before=${COMP_WORDS[COMP_CWORD-3]}; }
	case $last in
	'=' | '!=' | '<' | '>' | '<=' | '>=' | '==') last=$before ;;
	esac
	local words
	case $last in
	state | exclude) words="established half-open fin-wait close-wait closing reset closed listening connected all" ;;
	sport | dport) words=$(ctss --complete=ports 2>/dev/null) ;;
	src | dst) words=$(ctss --complete=names 2>/dev/null) ;;
	completion) words="bash zsh fish" ;;
	dump) words=$(ctss --complete=ids 2>/dev/null) ;;
	*) words="state exclude src dst sport dport id pid age idle space and or not completion dump
		--all --listening --numeric --processes --memory --info --extended --summary --json --watch --why --events --kill --help" ;;
	esac
	COMPREPLY=()
	if [ "${COMP_WORDS[1]}" = dump ] && [ "$last" != dump ]; then
		words="-w -p -s -c"
		[ "$last" = -w ] && { words=; compopt -o default 2>/dev/null; }
	fi
	local w
	while read -r w; do
		[[ $w == "$word"* ]] && COMPREPLY+=("${w#"${word%"${word##*:}"}"}")
	done < <(printf '%s\n' $words)
}
complete -F _ctss ctss
