package ctexpvar_test

import _ "cutthrough.example/ctnet/ctexpvar" // the variable "ctnet" in /debug/vars
