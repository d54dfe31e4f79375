from ditq.cli.cache_adaround_data import main

if __name__ == "__main__":
    main()
