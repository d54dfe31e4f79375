from ditq.cli.compare_methods import main

if __name__ == "__main__":
    main()
