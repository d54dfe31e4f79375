from ditq.cli.profile_postgelu import main

if __name__ == "__main__":
    main()
