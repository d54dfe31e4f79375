from ditq.cli.visualize_postgelu import main

if __name__ == "__main__":
    main()
