#compdef ctss
# zsh completion for ctss. Load it with: source <(ctss completion zsh)
_ctss() {
	local last=${words[CURRENT-1]}
	case $last in
	'=' | '!=' | '<' | '>' | '<=' | '>=' | '==') last=${words[CURRENT-2]} ;;
	esac
	case $last in
	state | exclude) compadd established half-open fin-wait close-wait closing reset closed listening connected all ;;
	sport | dport) compadd -- ${(f)"$(ctss --complete=ports 2>/dev/null)"} ;;
	src | dst) compadd -- ${(f)"$(ctss --complete=names 2>/dev/null)"} ;;
	completion) compadd bash zsh fish ;;
	dump) compadd -- ${(f)"$(ctss --complete=ids 2>/dev/null)"} ;;
	*)
		if [[ ${words[2]} == dump ]]; then
			[[ $last == -w ]] && _files || compadd -- -w -p -s -c
			return
		fi
		compadd state exclude src dst sport dport id pid age idle space and or not completion dump
		compadd -- --all --listening --numeric --processes --memory --info --extended --summary --json --watch --why --events --kill --help
		;;
	esac
}
compdef _ctss ctss
