from ditq.cli.run_pipeline import main

if __name__ == "__main__":
    main()
