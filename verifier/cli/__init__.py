"""The `verifier` command. The only package where the others meet: parse, call, print, exit status."""
