module cutthrough.example/benchmarks

go 1.26.0

require cutthrough.example v0.0.0

require golang.org/x/sys v0.49.0 // indirect

replace cutthrough.example => ../
