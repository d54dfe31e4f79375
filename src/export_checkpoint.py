from ditq.cli.export_checkpoint import main

if __name__ == "__main__":
    main()
