from ditq.cli.load_adaround_model import main

if __name__ == "__main__":
    main()
