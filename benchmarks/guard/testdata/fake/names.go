package main

var names = []string{"same", "slower", "gone", "hangs"}
