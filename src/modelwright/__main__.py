from modelwright.cli import main

main()
