# fish completion for ctss. Load it with: ctss completion fish | source
function __ctss_last
	set -l words (commandline -opc)
	set -l last $words[-1]
	if contains -- "$last" = != '<' '>' '<=' '>=' ==
		set last $words[-2]
	end
	contains -- "$last" $argv
end
complete -c ctss -f
complete -c ctss -n '__ctss_last state exclude' -a 'established half-open fin-wait close-wait closing reset closed listening connected all'
complete -c ctss -n '__ctss_last sport dport' -a '(ctss --complete=ports 2>/dev/null)'
complete -c ctss -n '__ctss_last src dst' -a '(ctss --complete=names 2>/dev/null)'
complete -c ctss -n '__ctss_last completion' -a 'bash zsh fish'
complete -c ctss -n '__ctss_last dump' -a '(ctss --complete=ids 2>/dev/null)'
complete -c ctss -n '__fish_seen_subcommand_from dump' -a '-w -p -s -c'
complete -c ctss -n '__fish_seen_subcommand_from dump; and __ctss_last -w' -F
complete -c ctss -n 'not __fish_seen_subcommand_from dump; and not __ctss_last state exclude sport dport src dst completion' -a 'state exclude src dst sport dport id pid age idle space and or not completion dump'
complete -c ctss -s a -l all -d 'listeners too'
complete -c ctss -s l -l listening -d 'listeners only'
complete -c ctss -s n -l numeric -d 'no names of ports and users'
complete -c ctss -s p -l processes -d 'the processes at both ends'
complete -c ctss -s m -l memory -d 'fifos and segments'
complete -c ctss -s i -l info -d 'bytes, calls, stalls'
complete -c ctss -s e -l extended -d 'ID, user, age, place'
complete -c ctss -s s -l summary -d 'numbers only'
complete -c ctss -s j -l json -d 'JSON'
complete -c ctss -s w -l watch -d 'redraw each second'
complete -c ctss -l why -d "what took the kernel's way"
complete -c ctss -l events -d 'what happened last at these'
complete -c ctss -s K -l kill -d 'reset these'
complete -c ctss -s h -l help
