package differential

// knownScripts are scripts that failed once.
var knownScripts = []string{}
