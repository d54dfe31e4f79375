from ditq.cli.adaround_optimize import main

if __name__ == "__main__":
    main()
